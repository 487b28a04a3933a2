"""Model cards, and the way of an export folder to the Hugging Face Hub."""
