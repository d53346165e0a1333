// Stands in for the toolkit's.
#pragma once
#define CUDA_VERSION 13000
