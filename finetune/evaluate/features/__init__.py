"""What images are compared by: numbers per image, from pixels or from models."""
