"""What the notebooks import: data loading, training, inspection and plotting."""
