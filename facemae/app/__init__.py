"""The pages of the Streamlit app; they read results and never train."""
