"""What pages of the app share."""
