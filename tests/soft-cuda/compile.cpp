// Calls g++: once for the preprocessed text, in which entry points are found, and once for the library.
#include "compile.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <regex>
#include <sstream>

static std::string variable(const char* name, const std::string& otherwise) {
  const char* text = getenv(name);
  return text && *text ? text : otherwise;
}

// The headers lie beside this library.
static std::string headers() {
  Dl_info info;
  static const int here = 0;
  std::string folder = ".";
  if (dladdr(&here, &info) && info.dli_fname) folder = info.dli_fname;
  const size_t slash = folder.rfind('/');
  folder = slash == std::string::npos ? "." : folder.substr(0, slash);
  return variable("SOFT_CUDA_INCLUDE", folder + "/include");
}

static std::string cache() {
  const std::string folder = variable("SOFT_CUDA_CACHE", variable("TMPDIR", "/tmp") + "/soft-cuda-" + std::to_string(getuid()));
  for (size_t slash = folder.find('/', 1); slash != std::string::npos; slash = folder.find('/', slash + 1))
    mkdir(folder.substr(0, slash).c_str(), 0777);
  mkdir(folder.c_str(), 0700);
  return folder;
}

static std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

static std::string hash(const std::string& text) {
  // FNV-1a, twice with different beginnings: 128 bits.
  unsigned long long a = 0xcbf29ce484222325ull, b = 0x84222325cbf29ce4ull;
  for (const unsigned char c : text) {
    a = (a ^ c) * 0x100000001b3ull;
    b = (b ^ (c + 1u)) * 0x100000001b3ull;
  }
  char digits[33];
  snprintf(digits, sizeof digits, "%016llx%016llx", a, b);
  return digits;
}

static std::string quoted(const std::string& word) {
  std::string result = "'";
  for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// The output of a command, errors in `log`; false if it fails.
static bool run(const std::string& command, std::string* output, std::string* log, const std::string& scratch) {
  const std::string out = scratch + ".out", err = scratch + ".err";
  const int status = system(("exec " + command + " > " + quoted(out) + " 2> " + quoted(err)).c_str());
  if (output) *output = contents(out);
  *log += contents(err);
  unlink(out.c_str());
  unlink(err.c_str());
  return status == 0;
}

// What g++ looks for besides, in a kernel: SOFT_CUDA_SANITIZE=none, or the names of -fsanitize.
static std::string sanitizers() {
  std::string which = variable("SOFT_CUDA_SANITIZE", "alignment,bounds-strict,shift,integer-divide-by-zero");
  if (variable("SOFT_CUDA_UBSAN", "") == "1") which = "undefined,bounds-strict";
  return which == "none" ? "" : " -fsanitize=" + which + " -fsanitize-undefined-trap-on-error";
}

// A library made for another processor may not run on this one.
static std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, 5, "flags") == 0) return line;
  return "";
}

// `extern __shared__ T name[];` cannot be said in C++; where macros do not hide it, it becomes a pointer.
static std::string with_dynamic_shared(const std::string& text) {
  if (text.find("extern __shared__") == std::string::npos) return text;
  static const std::regex declaration(R"(extern __shared__ (?:__align__\(\d+\) )?([\w ]+?) (\w+)\[\];)");
  return std::regex_replace(text, declaration, "$1* $2 = ($1*)soft_dynamic_shared();");
}

Compiled compile(const Source& source) {
  const std::string include = headers();
  // A kernel's arithmetic is fused as on a GPU, unless the options say otherwise. Variables that nothing was written to are
  // full of 0xfe, so that nobody takes them for zeros. What no entry point needs is left out (whole-program).
  std::string flags = " -std=c++17 -O2 -w -fPIC -march=native -ffp-contract=fast -fno-math-errno -fno-trapping-math -fno-strict-aliasing"
                      " -fno-exceptions -fno-gnu-unique -fvisibility=hidden -fwhole-program -ftrivial-auto-var-init=pattern" +
                      (source.only.empty() ? sanitizers() : "") +
                      " -DSOFT_CUDA=1 -D__CUDACC_VER_MAJOR__=13 -D__CUDACC_VER_MINOR__=0 -D__CUDA_ARCH__=" + std::to_string(source.capability * 10) +
                      " -include soft_cuda.h -I" + quoted(include);
  for (const std::string& option : source.options) flags += " " + quoted(option);
  const std::string compiler = variable("SOFT_CUDA_CXX", "g++");

  std::string everything = compiler + flags + processor() + source.name + source.only + source.text;
  for (const char* header : {"soft_cuda.h", "soft_types.h", "soft_threads.h", "soft_math.h", "soft_atomics.h", "soft_entry.h", "soft_small_floats.h"})
    everything += contents(include + "/" + header);
  const std::string stem = cache() + "/" + hash(everything), library = stem + ".so";

  // One at a time compiles it, the others wait and find it.
  const int lock = open((stem + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (lock >= 0) flock(lock, LOCK_EX);
  Compiled result;
  struct stat found;
  if (stat(library.c_str(), &found) == 0) {
    result.library = library;
  } else {
    const std::string scratch = stem + "." + std::to_string(getpid()), file = scratch + ".cu";
    {
      std::ofstream out(file);
      out << "#line 1 \"" << (source.name.empty() ? "default_program" : source.name) << "\"\n" << with_dynamic_shared(source.text) << "\n";
    }
    std::string preprocessed;
    if (run(compiler + flags + " -DSOFT_CUDA_SCAN -E -x c++ " + quoted(file), &preprocessed, &result.log, scratch)) {
      {
        std::ofstream out(file, std::ios::app);
        out << "\n#line 1 \"entry points\"\n";
        for (const EntryPoint& entry : entry_points(preprocessed))
          if (source.only.empty() || source.only == entry.name) out << "SOFT_ENTRY(" << entry.name << ", " << entry.bounds << ")\n";
      }
      // Its own names go before those of others: two sources may have entry points and helpers of the same name.
      const std::string made = scratch + ".so";
      if (run(compiler + flags + " -shared -Wl,-Bsymbolic -x c++ " + quoted(file) + " -o " + quoted(made), nullptr, &result.log, scratch) &&
          rename(made.c_str(), library.c_str()) == 0)
        result.library = library;
    }
    if (variable("SOFT_CUDA_KEEP", "").empty()) unlink(file.c_str());
    if (result.library.empty() && result.log.empty()) result.log = "the false NVRTC cannot run " + compiler + " or write to " + stem + "\n";
  }
  if (lock >= 0) close(lock);
  return result;
}

std::string image_of(const std::string& library, int capability) {
  return std::string("// no PTX: the false NVRTC has made a library for this processor\n") + capability_line +
         std::to_string(capability) + "\n" + library_line + library + "\n";
}
