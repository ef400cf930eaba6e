"""Other formats of a trained model."""
