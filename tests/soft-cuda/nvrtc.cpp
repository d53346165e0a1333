// The false NVRTC: options as the true one takes them, and g++.
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "compile.h"

#define API extern "C" __attribute__((visibility("default")))

enum nvrtcResult : int {
  NVRTC_SUCCESS = 0,
  NVRTC_ERROR_INVALID_INPUT = 3,
  NVRTC_ERROR_INVALID_PROGRAM = 4,
  NVRTC_ERROR_INVALID_OPTION = 5,
  NVRTC_ERROR_COMPILATION = 6,
  NVRTC_ERROR_INTERNAL_ERROR = 11,
};

namespace {
struct Program {
  Source source;
  std::string image, log;
};

bool begins(const std::string& text, const std::string& with) { return text.compare(0, with.size(), with) == 0; }

// Those that change nothing here.
const char* const ignored[] = {
    "--use_fast_math", "-use_fast_math", "--ftz", "-ftz", "--prec-sqrt", "-prec-sqrt", "--prec-div", "-prec-div",
    "--extra-device-vectorization", "-extra-device-vectorization", "--generate-line-info", "-lineinfo", "--device-debug", "-G",
    "--maxrregcount", "-maxrregcount", "--ptxas-options", "-Xptxas", "--device-as-default-execution-space", "-default-device",
    "--restrict", "-restrict", "--disable-warnings", "-w", "--relocatable-device-code", "-rdc", "--dopt", "-dopt", "--diag-", "-diag-",
    "--display-error-number", "-err-no", "--minimal", "-minimal", "--split-compile", "-split-compile", "--time", "-time",
    "--extensible-whole-program", "-ewp", "--no-source-include", "-no-source-include", "--fdevice-syntax-only",
};
// Of these the value may be the next option.
const char* const with_value[] = {"--ptxas-options", "-Xptxas", "--maxrregcount", "-maxrregcount", "--gpu-architecture", "-arch",
                                  "--define-macro", "-D", "--undefine-macro", "-U", "--include-path", "-I", "--std", "-std"};

// Takes one option with its value; false if there is no such option.
bool take(Source& source, const std::string& name, const std::string& value) {
  if (name == "--gpu-architecture" || name == "-arch") {
    const size_t digits = value.find('_');
    if (digits == std::string::npos) return false;
    source.capability = atoi(value.c_str() + digits + 1);
    return source.capability >= 75;
  }
  if (name == "--define-macro" || name == "-D") return source.options.push_back("-D" + value), true;
  if (name == "--undefine-macro" || name == "-U") return source.options.push_back("-U" + value), true;
  if (name == "--include-path" || name == "-I") return source.options.push_back("-I" + value), true;
  if (name == "--std" || name == "-std") return source.options.push_back("-std=" + value), true;
  if (name == "--fmad" || name == "-fmad") {
    if (value == "false") source.options.push_back("-ffp-contract=off");
    return value == "true" || value == "false";
  }
  for (const char* known : ignored)
    if (name == known || (strlen(known) > 3 && known[strlen(known) - 1] == '-' && begins(name, known))) return true;
  return false;
}
}  // namespace

API const char* nvrtcGetErrorString(nvrtcResult result) {
  switch (result) {
    case NVRTC_SUCCESS: return "NVRTC_SUCCESS";
    case NVRTC_ERROR_INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case NVRTC_ERROR_INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case NVRTC_ERROR_INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case NVRTC_ERROR_COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR_INTERNAL_ERROR";
  }
}

API nvrtcResult nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return NVRTC_SUCCESS;
}

API nvrtcResult nvrtcCreateProgram(Program** program, const char* text, const char* name, int headers, const char* const*, const char* const*) {
  if (!program || !text || headers) return NVRTC_ERROR_INVALID_INPUT;
  *program = new Program;
  (*program)->source.text = text;
  (*program)->source.name = name ? name : "default_program";
  return NVRTC_SUCCESS;
}

API nvrtcResult nvrtcDestroyProgram(Program** program) {
  if (!program || !*program) return NVRTC_ERROR_INVALID_PROGRAM;
  delete *program;
  *program = nullptr;
  return NVRTC_SUCCESS;
}

API nvrtcResult nvrtcCompileProgram(Program* program, int n, const char* const* options) {
  if (!program) return NVRTC_ERROR_INVALID_PROGRAM;
  program->source.options.clear();
  program->source.capability = 75;
  for (int i = 0; i < n; i++) {
    const std::string option = options[i];
    const size_t equals = option.find('=');
    std::string name = option.substr(0, equals), value = equals == std::string::npos ? "" : option.substr(equals + 1);
    // -DNAME=VALUE and -IPATH have no sign of equality of their own.
    if (begins(option, "-D") || begins(option, "-I") || begins(option, "-U")) name = option.substr(0, 2), value = option.substr(2);
    bool separate = false;
    for (const char* one : with_value) separate = separate || name == one;
    if (separate && value.empty() && equals == std::string::npos && i + 1 < n) value = options[++i];
    if (!take(program->source, name, value)) {
      program->log = "nvrtc: error: unrecognized option " + option + " found\n";
      return NVRTC_ERROR_INVALID_OPTION;
    }
  }
  const Compiled compiled = compile(program->source);
  program->log = compiled.log;
  if (compiled.library.empty()) return NVRTC_ERROR_COMPILATION;
  program->image = image_of(compiled.library, program->source.capability);
  return NVRTC_SUCCESS;
}

static nvrtcResult size_of(const std::string& text, size_t* size) {
  *size = text.size() + 1;
  return NVRTC_SUCCESS;
}
static nvrtcResult copy_of(const std::string& text, char* to) {
  memcpy(to, text.c_str(), text.size() + 1);
  return NVRTC_SUCCESS;
}
API nvrtcResult nvrtcGetPTXSize(Program* p, size_t* size) { return p ? size_of(p->image, size) : NVRTC_ERROR_INVALID_PROGRAM; }
API nvrtcResult nvrtcGetPTX(Program* p, char* to) { return p ? copy_of(p->image, to) : NVRTC_ERROR_INVALID_PROGRAM; }
API nvrtcResult nvrtcGetCUBINSize(Program* p, size_t* size) { return nvrtcGetPTXSize(p, size); }
API nvrtcResult nvrtcGetCUBIN(Program* p, char* to) { return nvrtcGetPTX(p, to); }
API nvrtcResult nvrtcGetProgramLogSize(Program* p, size_t* size) { return p ? size_of(p->log, size) : NVRTC_ERROR_INVALID_PROGRAM; }
API nvrtcResult nvrtcGetProgramLog(Program* p, char* to) { return p ? copy_of(p->log, to) : NVRTC_ERROR_INVALID_PROGRAM; }
