"""The networks: patches, encoder, decoder, masked autoencoder and face embedder."""
