"""Published checkpoints (ReActNet, S2-BNN, BURN, self-supervised teachers) as folders that timm loads."""
