"""Device, precision, several processes and seeds: where tensors live."""
