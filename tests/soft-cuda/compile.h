// From CUDA source to a shared library with one `soft_entry_NAME` for each entry point.
#pragma once

#include <string>
#include <vector>

struct Source {
  std::string text, name;
  std::vector<std::string> options;  // of g++
  int capability = 75;
  std::string only = "";  // the one entry point that is wanted of a large source of others, which is trusted; empty: all
};

struct Compiled {
  std::string library;  // empty: it failed
  std::string log;
};

// Compiles, or finds what it has compiled before: in SOFT_CUDA_CACHE, else in a folder of this user's.
Compiled compile(const Source& source);

// The "PTX" of a library, which cuModuleLoadData opens, and what the stand-in for nvcc leaves for it to compile.
std::string image_of(const std::string& library, int capability);
constexpr const char* library_line = "// soft CUDA library ";
constexpr const char* source_line = "// soft CUDA source ";
constexpr const char* capability_line = "// soft CUDA capability ";

struct EntryPoint {
  std::string name, bounds;  // what stands in __launch_bounds__
};
// All `extern "C" __global__` functions of a preprocessed text.
std::vector<EntryPoint> entry_points(const std::string& preprocessed);
