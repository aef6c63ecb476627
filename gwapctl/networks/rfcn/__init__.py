"""R-FCN with the weak branch of GWAP: the network, its losses, and how it is kept on disk."""
