"""`make bench-quality`: which share of the duplicates encoders and perceptual hashes find on real images."""
