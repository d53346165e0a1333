// cuBLAS, cuRAND and their like: Candle makes a handle of each for a device. Handles can be made; nothing else works.
#define API extern "C" __attribute__((visibility("default")))

static int handle;
static int made(void** where) {
  *where = &handle;
  return 0;
}

#if defined(SOFT_CUBLAS)
API int cublasCreate_v2(void** where) { return made(where); }
API int cublasDestroy_v2(void*) { return 0; }
API int cublasSetStream_v2(void*, void*) { return 0; }
API int cublasSetMathMode(void*, int) { return 0; }
API int cublasSetWorkspace_v2(void*, void*, unsigned long) { return 0; }
API const char* cublasGetStatusString(int) { return "soft CUDA has no cuBLAS"; }
API const char* cublasGetStatusName(int) { return "CUBLAS_STATUS_NOT_SUPPORTED"; }
#elif defined(SOFT_CUBLASLT)
API int cublasLtCreate(void** where) { return made(where); }
API int cublasLtDestroy(void*) { return 0; }
API const char* cublasLtGetStatusString(int) { return "soft CUDA has no cuBLASLt"; }
API const char* cublasLtGetStatusName(int) { return "CUBLAS_STATUS_NOT_SUPPORTED"; }
#elif defined(SOFT_CURAND)
API int curandCreateGenerator(void** where, int) { return made(where); }
API int curandDestroyGenerator(void*) { return 0; }
API int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
API int curandSetGeneratorOffset(void*, unsigned long long) { return 0; }
API int curandSetStream(void*, void*) { return 0; }
#else
API const char* cudaGetErrorString(int) { return "soft CUDA has no run-time library"; }
API const char* cudaGetErrorName(int) { return "cudaErrorNotSupported"; }
// So that all of them may use it.
API int soft_cuda_unused(void** where) { return made(where); }
#endif
