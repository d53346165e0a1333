// Stands in for the toolkit's.
#pragma once
#include "soft_small_floats.h"
