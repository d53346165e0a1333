// The blocks of a grid, on as many threads of the system as there are processors (SOFT_CUDA_THREADS).
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime.h"

namespace {

struct Job {
  const Launch& launch;
  const unsigned long long blocks;
  std::atomic<unsigned long long> next{0};
  unsigned helpers = 0;

  explicit Job(const Launch& launch)
      : launch(launch), blocks((unsigned long long)launch.blocks.x * launch.blocks.y * launch.blocks.z) {}

  void work() {
    const dim3 n = launch.blocks;
    for (unsigned long long i; (i = next.fetch_add(1)) < blocks;) {
      const unsigned long long at = order().place(i, blocks);
      run_block(launch, {unsigned(at % n.x), unsigned(at / n.x % n.y), unsigned(at / n.x / n.y)});
    }
  }
};

// Helps whoever launches; it is never taken down, since kernels may run until the program's very end.
class Pool {
 public:
  Pool() {
    const char* text = getenv("SOFT_CUDA_THREADS");
    const unsigned threads = text ? unsigned(atoi(text)) : std::thread::hardware_concurrency();
    for (unsigned i = 1; i < threads; i++) std::thread([this] { help(); }).detach();
  }

  void run(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      jobs.push_back(&job);
    }
    wake.notify_all();
    job.work();
    std::unique_lock<std::mutex> lock(mutex);
    for (size_t i = 0; i < jobs.size(); i++)
      if (jobs[i] == &job) jobs.erase(jobs.begin() + long(i)), i--;
    finished.wait(lock, [&] { return job.helpers == 0; });
  }

 private:
  void help() {
    catch_faults();
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      Job* job = nullptr;
      for (Job* one : jobs)
        if (one->next < one->blocks) job = one;
      if (!job) {
        wake.wait(lock);
        continue;
      }
      job->helpers++;
      lock.unlock();
      job->work();
      lock.lock();
      if (--job->helpers == 0) finished.notify_all();
    }
  }

  std::mutex mutex;
  std::condition_variable wake, finished;
  std::vector<Job*> jobs;
};

}  // namespace

void run_grid(const Launch& launch) {
  static Pool& pool = *new Pool;
  catch_faults();
  Job job(launch);
  if (job.blocks == 1)
    job.work();
  else
    pool.run(job);
}
