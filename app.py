"""The app: a frame around its pages. Start it with: streamlit run app.py"""

import streamlit as st

from facemae.app import access, frame
from facemae.app.views import (
    alignment,
    compare,
    explain,
    fairness,
    gallery,
    home,
    recognise,
    reconstruct,
    results,
)

st.set_page_config(page_title="FaceMAE", page_icon="🙂", layout="wide")
access.check()
frame.choose_results()

others = [
    st.Page(results.render, title="Results", icon=":material/table_chart:", url_path="results"),
    st.Page(compare.render, title="Compare", icon=":material/balance:", url_path="compare"),
    st.Page(reconstruct.render, title="Reconstruct", icon=":material/grid_view:", url_path="reconstruct"),
    st.Page(
        recognise.render, title="Recognise", icon=":material/familiar_face_and_zone:", url_path="recognise"
    ),
    st.Page(gallery.render, title="Gallery", icon=":material/group:", url_path="gallery"),
    st.Page(explain.render, title="Explain", icon=":material/troubleshoot:", url_path="explain"),
    st.Page(fairness.render, title="Fairness", icon=":material/diversity_3:", url_path="fairness"),
    st.Page(alignment.render, title="Alignment", icon=":material/face:", url_path="alignment"),
]
start = st.Page(lambda: home.render(others), title="Home", icon=":material/home:", default=True)
st.navigation([start, *others], position="top").run()
