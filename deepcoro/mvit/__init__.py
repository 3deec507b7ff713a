"""The parts of MViTv2 (Li et al. 2022, arXiv:2112.01526): shapes and variants, embedding, pooling attention, blocks, weights."""
