"""Skeleton data: file formats, layouts, preprocessing."""
