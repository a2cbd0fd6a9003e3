"""What both engines need to run FLUX.1's blocks faster: compiled, and with matrices in 8 bits. Imports torch."""
