"""What the claims measure, each with the imports that it needs: pixels, clip, judge, masks."""
