"""File formats of this field, read and written by hand: checkpoints, pickles, single files, LoRA, embeddings."""
