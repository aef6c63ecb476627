"""Networks: backbones, heads and classifiers made of them, R-FCN, the zoo, and how they are kept on disk."""
