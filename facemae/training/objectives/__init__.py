"""One training objective each: masked autoencoding, contrastive, identity."""
