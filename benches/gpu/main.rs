//! Our side of `compare/gpu.py`: takes orders on standard input, answers each with one line.
