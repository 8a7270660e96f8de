"""The face restoration stage: detect faces, restore them with CodeFormer, paste them back."""
