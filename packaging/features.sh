#!/usr/bin/env bash
# cargo's arguments for the library that is shipped for a target: features.sh TARGET
# Layers on NVIDIA GPUs wherever there are drivers for them; the library needs nothing of CUDA to load.
case $1 in
    *-apple-*) ;;
    *) echo --features cuda ;;
esac
