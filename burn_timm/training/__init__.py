"""What train_burn.py is made of besides the loop itself."""
