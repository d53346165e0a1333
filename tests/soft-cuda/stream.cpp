// Streams, events and captures. Work is done at once, or, with SOFT_CUDA_ASYNC=1, as late as it may be.
#include <time.h>

#include <set>

#include "driver.h"

std::recursive_mutex& streams_mutex() {
  static auto& mutex = *new std::recursive_mutex;
  return mutex;
}
using Lock = std::lock_guard<std::recursive_mutex>;

static std::set<Stream*>& all_streams() {
  static auto& all = *new std::set<Stream*>;
  return all;
}
static std::vector<std::weak_ptr<Capture>>& captures() {
  static auto& all = *new std::vector<std::weak_ptr<Capture>>;
  return all;
}

bool asynchronous() {
  static const bool yes = getenv("SOFT_CUDA_ASYNC") && !strcmp(getenv("SOFT_CUDA_ASYNC"), "1");
  return yes;
}

Stream* stream_of(void* handle) {
  // One default stream for each device, and one for each device and thread of the system.
  static Stream legacy[16];
  static thread_local Stream* own[16];  // never freed: its work may go on after the thread
  if (uintptr_t(handle) > 2) {
    if (!asynchronous()) return static_cast<Stream*>(handle);
    Lock lock(streams_mutex());
    return all_streams().count(static_cast<Stream*>(handle)) ? static_cast<Stream*>(handle) : nullptr;
  }
  const int device = current_context->device;
  Stream* stream = &legacy[device];
  if (uintptr_t(handle) == 2) {
    if (!own[device]) own[device] = new Stream;
    stream = own[device];
  }
  if (!stream->context) {
    Lock lock(streams_mutex());
    stream->context = current_context;
    all_streams().insert(stream);
  }
  return stream;
}

void drain(Stream* stream, unsigned long long until) {
  if (!asynchronous()) return;
  Lock lock(streams_mutex());
  while (!stream->waiting.empty() && stream->done < until) {
    const Work work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    work.run();
    stream->done++;
  }
}

void drain_all() {
  if (!asynchronous()) return;
  Lock lock(streams_mutex());
  for (Stream* stream : all_streams()) drain(stream);
}

CUresult submit(Stream* stream, Work work) {
  if (!asynchronous() && !stream->capture) {
    work.run();
    return CUDA_SUCCESS;
  }
  Lock lock(streams_mutex());
  if (const auto capture = stream->capture) {
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    capture->graph->nodes.push_back(std::move(work));
    stream->joined = stream == capture->origin;
    return CUDA_SUCCESS;
  }
  stream->waiting.push_back(std::move(work));
  stream->given++;
  return CUDA_SUCCESS;
}

CUresult unsafe_call() {
  // Nobody captures, most of the time.
  Lock lock(streams_mutex());
  bool refused = false;
  for (const auto& weak : captures())
    if (const auto capture = weak.lock()) {
      // Modes: 0 global, 1 this thread's captures, 2 relaxed.
      if (capture->mode == 2 || (capture->mode == 1 && capture->thread != std::this_thread::get_id())) continue;
      capture->invalid = refused = true;
    }
  return refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

API CUresult cuStreamCreateWithPriority(Stream** stream, unsigned flags, int priority) {
  NEEDS_CONTEXT();
  Lock lock(streams_mutex());
  *stream = new Stream;
  (*stream)->context = current_context;
  (*stream)->flags = flags;
  (*stream)->priority = priority;
  all_streams().insert(*stream);
  return CUDA_SUCCESS;
}
API CUresult cuStreamCreate(Stream** stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

API CUresult cuStreamGetPriority(void* handle, int* priority) {
  *priority = stream_of(handle)->priority;
  return CUDA_SUCCESS;
}
API CUresult cuStreamGetFlags(void* handle, unsigned* flags) {
  *flags = stream_of(handle)->flags;
  return CUDA_SUCCESS;
}
API CUresult cuStreamGetCtx(void* handle, Context** context) {
  *context = stream_of(handle)->context;
  return CUDA_SUCCESS;
}

API CUresult cuStreamDestroy_v2(void* handle) {
  NEEDS_CONTEXT();
  if (uintptr_t(handle) <= 2) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  auto stream = static_cast<Stream*>(handle);
  // What it was given is still done.
  drain(stream);
  if (!all_streams().erase(stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) stream->capture->invalid = true;
  forget_stream(stream);
  delete stream;
  return CUDA_SUCCESS;
}

API CUresult cuStreamSynchronize(void* handle) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  if (stream->capture) {
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  drain(stream);
  return CUDA_SUCCESS;
}

API CUresult cuStreamQuery(void* handle) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  if (stream->capture) {
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  if (stream->waiting.empty()) return CUDA_SUCCESS;
  // Who asks again and again sees it end.
  drain(stream, stream->done + 1);
  return CUDA_ERROR_NOT_READY;
}

API CUresult cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  return submit(stream, {"host function", [=] { function(data); }});
}

// Events -----------------------------------------------------------------------------------------------------------------

static std::set<Event*>& all_events() {
  static auto& all = *new std::set<Event*>;
  return all;
}

// A stream that is gone has done all it was given.
void forget_stream(Stream* stream) {
  for (Event* event : all_events())
    if (event->stream == stream) event->stream = nullptr;
}

API CUresult cuEventCreate(Event** event, unsigned flags) {
  NEEDS_CONTEXT();
  Lock lock(streams_mutex());
  *event = new Event;
  (*event)->context = current_context;
  (*event)->flags = flags;
  all_events().insert(*event);
  return CUDA_SUCCESS;
}

API CUresult cuEventDestroy_v2(Event* event) {
  NEEDS_CONTEXT();
  Lock lock(streams_mutex());
  if (!all_events().erase(event)) return CUDA_ERROR_INVALID_HANDLE;
  delete event;
  return CUDA_SUCCESS;
}

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

API CUresult cuEventRecord(Event* event, void* handle) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream || !event) return CUDA_ERROR_INVALID_HANDLE;
  if (event->context != stream->context) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  if (stream->capture) {
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    event->capture = stream->capture;
    event->captured = true;
    event->stream = stream;
    return CUDA_SUCCESS;
  }
  event->captured = false;
  event->capture.reset();
  event->stream = stream;
  if (!asynchronous()) {
    event->seconds = now();
    return CUDA_SUCCESS;
  }
  const unsigned generation = ++event->generation;
  event->at = stream->given + 1;
  return submit(stream, {"record event", [event, generation] {
                           if (all_events().count(event) && event->generation == generation) event->seconds = now();
                         }});
}
API CUresult cuEventRecordWithFlags(Event* event, void* handle, unsigned) { return cuEventRecord(event, handle); }

API CUresult cuStreamWaitEvent(void* handle, Event* event, unsigned) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream || !event) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  if (event->captured) {
    const auto capture = event->capture.lock();
    // It was recorded in a capture that has ended: nothing will ever happen there.
    if (!capture) {
      if (!stream->capture) return CUDA_ERROR_CAPTURED_EVENT;
      stream->capture->invalid = true;
      return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (stream->capture && stream->capture != capture) {
      stream->capture->invalid = capture->invalid = true;
      return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!stream->capture) {
      // The stream joins the capture.
      stream->capture = capture;
      stream->joined = true;
      capture->streams.push_back(stream);
    }
    if (event->stream && event->stream != stream) event->stream->joined = true;
    return CUDA_SUCCESS;
  }
  // An event that was never recorded is no dependency.
  if (stream->capture) {
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!event->stream) return CUDA_SUCCESS;
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  if (!asynchronous() || !event->stream || event->stream == stream) return CUDA_SUCCESS;
  Stream* other = event->stream;
  const auto at = event->at;
  return submit(stream, {"wait for event", [other, at] {
                           if (all_streams().count(other)) drain(other, at);
                         }});
}

static CUresult ask(Event* event, bool wait) {
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  if (event->captured) {
    if (const auto capture = event->capture.lock()) capture->invalid = true;
    return CUDA_ERROR_CAPTURED_EVENT;
  }
  if (!asynchronous() || !event->stream || event->stream->done >= event->at) return CUDA_SUCCESS;
  drain(event->stream, wait ? event->at : event->stream->done + 1);
  return wait ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

API CUresult cuEventSynchronize(Event* event) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  return ask(event, true);
}
API CUresult cuEventQuery(Event* event) {
  NEEDS_CONTEXT();
  if (const CUresult refused = unsafe_call()) return refused;
  return ask(event, false);
}

API CUresult cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
  NEEDS_CONTEXT();
  // Events made with "disable timing" have no time.
  if (!start || !end || start->flags & 2 || end->flags & 2 || !start->stream || !end->stream) return CUDA_ERROR_INVALID_HANDLE;
  if (ask(start, false) || ask(end, false)) return CUDA_ERROR_NOT_READY;
  *milliseconds = float((end->seconds - start->seconds) * 1e3);
  return CUDA_SUCCESS;
}
API CUresult cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}

// Captures ---------------------------------------------------------------------------------------------------------------

API CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
  NEEDS_CONTEXT();
  if (uintptr_t(handle) < 2) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  if (stream->capture) return CUDA_ERROR_INVALID_VALUE;
  auto capture = std::make_shared<Capture>();
  capture->graph = std::make_unique<Graph>();
  capture->origin = stream;
  capture->streams = {stream};
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  stream->capture = capture;
  captures().push_back(capture);
  return CUDA_SUCCESS;
}

API CUresult cuStreamEndCapture(void* handle, Graph** graph) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  *graph = nullptr;
  const auto capture = stream->capture;
  if (!capture) return CUDA_ERROR_INVALID_VALUE;
  if (capture->mode != 2 && capture->thread != std::this_thread::get_id()) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  if (capture->origin != stream) {
    capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  }
  bool joined = true;
  for (Stream* one : capture->streams)
    if (all_streams().count(one)) {
      joined = joined && (one == stream || one->joined);
      one->capture.reset();
    }
  auto& all = captures();
  for (size_t i = 0; i < all.size(); i++)
    if (all[i].expired() || all[i].lock() == capture) all.erase(all.begin() + long(i)), i--;
  if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (!joined) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  *graph = capture->graph.release();
  return CUDA_SUCCESS;
}

API CUresult cuStreamIsCapturing(void* handle, int* status) {
  NEEDS_CONTEXT();
  Stream* stream = stream_of(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Lock lock(streams_mutex());
  *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
  return CUDA_SUCCESS;
}

API CUresult cuThreadExchangeStreamCaptureMode(int* mode) {
  static thread_local int current = 0;
  std::swap(current, *mode);
  return CUDA_SUCCESS;
}
