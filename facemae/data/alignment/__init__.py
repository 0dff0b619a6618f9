"""Photo to aligned face: detection, warp, quality."""
