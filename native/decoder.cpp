// Threads that fill batches: one queue, first come, first filled.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include <jpeglib.h>

#include "baseline.h"
#include "clock.h"
#include "crc32c.h"
#include "eighteen.h"
#include "picture.h"
#include "processor.h"

using eighteen::Baseline;
using eighteen::Outcome;
using eighteen::PictureMaker;

struct e18_batch {
  std::vector<e18_sample> samples;
  e18_shape shape;
  uint8_t* pixels;
  int32_t* statuses;
  int64_t* details;
  // the rest belongs to the decoder's mutex
  size_t begun = 0, done = 0;  // samples
  e18_work work{};
  size_t blamed = SIZE_MAX;  // the first sample that has a message
  char message[JMSG_LENGTH_MAX]{};
};

namespace {

constexpr size_t TINY = 64;  // raw samples that a thread takes at once: each is done in microseconds
constexpr auto PATIENCE = std::chrono::seconds(2);  // with a read that is stuck, once nobody wants its result

// What a thread is at: a sample of a batch, or of none.
struct Place {
  e18_batch* batch = nullptr;
  size_t sample = 0;
  uint64_t since_ns = 0;
  const PictureMaker* maker = nullptr;
};

}  // namespace

struct e18_decoder {
  std::mutex mutex;
  std::condition_variable has_work, has_result;
  std::deque<e18_batch*> queue;  // those with samples that no thread has begun
  std::list<std::unique_ptr<e18_batch>> batches;  // all that have not been waited for
  std::list<Place> places;  // a thread each
  std::vector<std::thread> threads;
  size_t num_running = 0;  // threads
  bool cancelled = false, closing = false;

  void run();
  void cancel();
};

void e18_decoder::run() {
  PictureMaker maker;
  std::unique_lock lock(mutex);
  Place& place = places.emplace_back();
  place.maker = &maker;
  while (true) {
    has_work.wait(lock, [&] { return closing || !queue.empty(); });
    if (closing) break;
    e18_batch& batch = *queue.front();
    const size_t first = batch.begun;
    const size_t last = std::min(first + (batch.shape.raw_channels ? TINY : 1), batch.samples.size());
    batch.begun = last;
    if (last == batch.samples.size()) queue.pop_front();
    place.batch = &batch, place.sample = first, place.since_ns = eighteen::now_ns();
    lock.unlock();

    e18_work work{};
    Outcome blamed;
    size_t at = SIZE_MAX;
    const size_t bytes = size_t(batch.shape.height) * batch.shape.width * batch.shape.channels;
    for (size_t i = first; i < last; ++i) {
      const Outcome outcome = maker.make(batch.samples[i], batch.shape, batch.pixels + i * bytes, work);
      batch.statuses[i] = outcome.status;
      batch.details[i] = outcome.detail;
      if (outcome.status != E18_OK && at == SIZE_MAX) blamed = outcome, at = i;
    }

    lock.lock();
    place.batch = nullptr;
    if (at < batch.blamed) {
      batch.blamed = at;
      std::snprintf(batch.message, sizeof batch.message, "%s", blamed.message);
    }
    batch.work.read_ns += work.read_ns, batch.work.verify_ns += work.verify_ns;
    batch.work.decode_ns += work.decode_ns, batch.work.resize_ns += work.resize_ns;
    batch.work.read_bytes += work.read_bytes;
    batch.done += last - first;
    if (batch.done == batch.samples.size()) has_result.notify_all();
  }
  --num_running;
  has_result.notify_all();
}

// With the mutex held.
void e18_decoder::cancel() {
  cancelled = true;
  for (e18_batch* batch : queue) {
    std::fill(batch->statuses + batch->begun, batch->statuses + batch->samples.size(), E18_CANCELLED);
    batch->done += batch->samples.size() - batch->begun;
    batch->begun = batch->samples.size();
  }
  queue.clear();
  has_result.notify_all();
}

int e18_interface(void) { return E18_INTERFACE; }

const char* e18_instructions(void) { return eighteen::instructions(); }

const char* e18_library(void) {
  static char name[64];
  static std::once_flag once;
  std::call_once(once, [] {
    const int version = LIBJPEG_TURBO_VERSION_NUMBER;  // 2001005 is 2.1.5
    std::snprintf(name, sizeof name, "libjpeg-turbo %d.%d.%d", version / 1'000'000, version / 1000 % 1000, version % 1000);
  });
  return name;
}

uint32_t e18_crc32c(const void* bytes, uint64_t length) {
  return eighteen::crc32c(static_cast<const uint8_t*>(bytes), length);
}

int32_t e18_find_rows(const uint8_t* bytes, uint64_t length, e18_row* rows, int32_t max_rows) try {
  thread_local Baseline baseline;
  return baseline.open(bytes, length) ? baseline.find_rows(rows, max_rows) : 0;
} catch (const std::bad_alloc&) {
  return 0;
}

int e18_make(const e18_sample* sample, e18_shape shape, uint8_t* pixels, int64_t* detail, char* message,
             int message_size) {
  thread_local PictureMaker maker;
  e18_work work{};
  const Outcome outcome = maker.make(*sample, shape, pixels, work);
  *detail = outcome.detail;
  std::snprintf(message, message_size, "%s", outcome.message);
  return outcome.status;
}

e18_decoder* e18_open(int num_threads) try {
  auto decoder = std::make_unique<e18_decoder>();
  try {
    for (std::lock_guard lock(decoder->mutex); int(decoder->num_running) < num_threads; ++decoder->num_running)
      decoder->threads.emplace_back(&e18_decoder::run, decoder.get());
  } catch (const std::system_error&) {
    e18_close(decoder.release());
    return nullptr;
  }
  return decoder.release();
} catch (const std::bad_alloc&) {
  return nullptr;
}

void e18_cancel(e18_decoder* decoder) {
  std::lock_guard lock(decoder->mutex);
  decoder->cancel();
}

int e18_close(e18_decoder* decoder) {
  std::unique_lock lock(decoder->mutex);
  decoder->cancel();
  decoder->closing = true;
  decoder->has_work.notify_all();
  const bool ended = decoder->has_result.wait_for(lock, PATIENCE, [&] { return decoder->num_running == 0; });
  lock.unlock();
  for (std::thread& thread : decoder->threads) ended ? thread.join() : thread.detach();
  if (ended) delete decoder;
  return ended;
}

e18_batch* e18_submit(e18_decoder* decoder, const e18_sample* samples, int64_t num_samples, e18_shape shape,
                      uint8_t* pixels, int32_t* statuses, int64_t* details) try {
  auto owned = std::make_unique<e18_batch>();
  e18_batch* batch = owned.get();
  batch->samples.assign(samples, samples + num_samples);
  batch->shape = shape, batch->pixels = pixels, batch->statuses = statuses, batch->details = details;
  for (const e18_sample& sample : batch->samples)  // lets the disk work ahead of the threads
    posix_fadvise(sample.fd, static_cast<off_t>(sample.offset), static_cast<off_t>(sample.length), POSIX_FADV_WILLNEED);
  std::lock_guard lock(decoder->mutex);
  decoder->batches.push_back(std::move(owned));
  if (num_samples) decoder->queue.push_back(batch);
  if (decoder->cancelled) decoder->cancel();
  decoder->has_work.notify_all();
  return batch;
} catch (const std::bad_alloc&) {
  return nullptr;
}

int e18_wait(e18_decoder* decoder, e18_batch* batch, e18_work* work, char* message, int message_size) {
  std::unique_lock lock(decoder->mutex);
  const auto is_filled = [&] { return batch->done == batch->samples.size(); };
  decoder->has_result.wait(lock, [&] { return is_filled() || decoder->cancelled; });
  if (!decoder->has_result.wait_for(lock, PATIENCE, is_filled)) return 0;
  *work = batch->work;
  std::snprintf(message, message_size, "%s", batch->message);
  decoder->batches.remove_if([&](const auto& owned) { return owned.get() == batch; });
  return 1;
}

e18_batch* e18_slowest(e18_decoder* decoder, int64_t* place, int32_t* stage, double* seconds) {
  std::lock_guard lock(decoder->mutex);
  const Place* slowest = nullptr;
  for (const Place& one : decoder->places)
    if (one.batch && (!slowest || one.since_ns < slowest->since_ns)) slowest = &one;
  if (!slowest) return nullptr;
  *place = static_cast<int64_t>(slowest->sample);
  *stage = slowest->maker->stage();
  *seconds = 1e-9 * double(eighteen::now_ns() - slowest->since_ns);
  return slowest->batch;
}
