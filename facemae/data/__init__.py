"""From files to aligned faces: decoding, sources, detection and alignment."""
