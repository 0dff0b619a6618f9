"""FaceMAE: what does masked-autoencoder pretraining buy for face recognition?"""

__version__ = "0.1.0"
