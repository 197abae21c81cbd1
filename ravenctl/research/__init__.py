"""Offline research: bars and VPIN buckets out of files of trades, and a bucket volume for VPIN."""
