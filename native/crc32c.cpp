// One instruction takes 8 bytes but answers after 3 cycles, so three stretches go side by side and are joined afterwards:
// appending n bytes to a message multiplies its remainder by x^(8n), which four table look-ups do for a fixed n
// (the method of Mark Adler's crc32c.c, written anew).
#include "crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

namespace eighteen {
namespace {

constexpr uint32_t POLYNOMIAL = 0x82F63B78;  // reflected
constexpr size_t STRETCH = 1024;  // bytes that go side by side with two more such stretches

using Table = std::array<uint32_t, 256>;

constexpr uint32_t append_zero_byte(uint32_t crc) {
  for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
  return crc;
}

Table byte_table() {
  Table table;
  for (uint32_t byte = 0; byte < 256; ++byte) table[byte] = append_zero_byte(byte);
  return table;
}

// For each byte of a remainder: what it becomes when STRETCH zero bytes are appended.
std::array<Table, 4> stretch_tables() {
  std::array<uint32_t, 32> images;
  for (int bit = 0; bit < 32; ++bit) {
    images[bit] = 1u << bit;
    for (size_t byte = 0; byte < STRETCH; ++byte) images[bit] = append_zero_byte(images[bit]);
  }
  std::array<Table, 4> tables{};
  for (int place = 0; place < 4; ++place)
    for (uint32_t value = 0; value < 256; ++value)
      for (int bit = 0; bit < 8; ++bit)
        if (value >> bit & 1) tables[place][value] ^= images[8 * place + bit];
  return tables;
}

uint32_t portable(uint32_t crc, const uint8_t* bytes, size_t length) {
  static const Table table = byte_table();
  while (length--) crc = crc >> 8 ^ table[(crc ^ *bytes++) & 0xFF];
  return crc;
}

[[maybe_unused]] uint32_t append_stretch(uint32_t crc) {
  static const std::array<Table, 4> tables = stretch_tables();
  return tables[0][crc & 0xFF] ^ tables[1][crc >> 8 & 0xFF] ^ tables[2][crc >> 16 & 0xFF] ^ tables[3][crc >> 24];
}

uint64_t eight_bytes(const uint8_t* bytes) {
  uint64_t value;
  std::memcpy(&value, bytes, 8);
  return value;
}

#if defined(__x86_64__)
#define HARDWARE __attribute__((target("sse4.2")))
HARDWARE inline uint32_t add(uint32_t crc, uint64_t value) { return static_cast<uint32_t>(_mm_crc32_u64(crc, value)); }
HARDWARE inline uint32_t add(uint32_t crc, uint8_t value) { return _mm_crc32_u8(crc, value); }
bool has_instruction() { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__)
#define HARDWARE __attribute__((target("+crc")))
HARDWARE inline uint32_t add(uint32_t crc, uint64_t value) { return __crc32cd(crc, value); }
HARDWARE inline uint32_t add(uint32_t crc, uint8_t value) { return __crc32cb(crc, value); }
bool has_instruction() { return getauxval(AT_HWCAP) & HWCAP_CRC32; }
#endif

#ifdef HARDWARE
HARDWARE uint32_t hardware(uint32_t crc, const uint8_t* bytes, size_t length) {
  for (; length >= 3 * STRETCH; bytes += 3 * STRETCH, length -= 3 * STRETCH) {
    uint32_t second = 0, third = 0;
    for (size_t place = 0; place < STRETCH; place += 8) {
      crc = add(crc, eight_bytes(bytes + place));
      second = add(second, eight_bytes(bytes + STRETCH + place));
      third = add(third, eight_bytes(bytes + 2 * STRETCH + place));
    }
    crc = append_stretch(append_stretch(crc) ^ second) ^ third;
  }
  for (; length >= 8; bytes += 8, length -= 8) crc = add(crc, eight_bytes(bytes));
  while (length--) crc = add(crc, *bytes++);
  return crc;
}
#endif

}  // namespace

uint32_t crc32c(const uint8_t* bytes, size_t length) {
#ifdef HARDWARE
  static const bool by_hardware = has_instruction();
  if (by_hardware) return ~hardware(~0u, bytes, length);
#endif
  return ~portable(~0u, bytes, length);
}

}  // namespace eighteen
