#!/usr/bin/env python3
"""Writes imagenet_classes.txt: the 1000 ImageNet class names, one per line, line 0 first.

The names are torchvision's; this runs only when the list is to be made anew.
"""
import pathlib

from torchvision.models._meta import _IMAGENET_CATEGORIES

target = pathlib.Path(__file__).with_name("imagenet_classes.txt")
target.write_text("\n".join(_IMAGENET_CATEGORIES) + "\n", encoding="utf-8")
print(f"{target.name}: {len(_IMAGENET_CATEGORIES)} classes")
