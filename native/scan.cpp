#include "scan.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "processor.h"

#define INLINE inline __attribute__((always_inline))

namespace eighteen {

// Bits, held in registers while blocks are read.
class BitReader {
 public:
  explicit INLINE BitReader(Bits& bits) : bits_(bits), next_(bits.next_), end_(bits.end_), window_(bits.window_), held_(bits.held_) {}
  INLINE ~BitReader() { bits_.next_ = next_, bits_.window_ = window_, bits_.held_ = held_; }

  // From 56 bits on are held afterwards. A symbol with its value takes at most 31.
  INLINE void refill() {
    uint64_t word;
    std::memcpy(&word, next_, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    window_ |= word >> held_;
    next_ += (63 - held_) >> 3;
    held_ |= 56;
  }
  INLINE unsigned ahead() const { return static_cast<unsigned>(window_ >> (64 - LOOK_AHEAD)); }
  INLINE void drop(unsigned num) { window_ <<= num, held_ -= static_cast<int>(num); }
  INLINE bool ran_out() const { return next_ > end_ && 8 * (next_ - end_) > held_; }

  // Any symbol; -1: no such code.
  INLINE int symbol(const HuffmanCodes& codes) {
    int code = codes[ahead()];
    if (__builtin_expect(!code, 0)) code = codes.find_long(static_cast<unsigned>(window_ >> 48));
    drop(static_cast<unsigned>(code) >> 8);
    return code ? code & 255 : -1;
  }
  INLINE int value(int size) {
    const int value = value_of(window_, size);
    drop(static_cast<unsigned>(size));
    return value;
  }

 private:
  Bits& bits_;
  const uint8_t *next_, *const end_;
  uint64_t window_;
  int held_;
};

namespace {

constexpr size_t MAX_OVERRUN = 4096;  // bytes: more than an MCU can take, 6 blocks of 64 symbols of up to 31 bits
constexpr unsigned LAST_WITH_PAIRS = 64 - 16;  // from here on the second of a pair might belong to the next block
constexpr int RST0 = 0xD0;
constexpr int MAX_DC = 1 << 20;  // far beyond a coefficient, and so far from an int's end that no row of MCUs leads there

INLINE bool read_dc(BitReader& reader, Scan::Component& component) {
  reader.refill();
  const int size = reader.symbol(component.dc->codes);
  if (size < 0) return false;
  component.previous += reader.value(size);
  return true;
}

// One symbol after the DC, whatever it is: moves `place` on. False: no such code.
INLINE bool read_one(BitReader& reader, const AcTable& table, unsigned& place, int16_t* block) {
  const int symbol = reader.symbol(table.codes);
  if (symbol < 0) return false;
  const unsigned run = static_cast<unsigned>(symbol) >> 4;
  if (const int size = symbol & 15) {
    block[PLACES[place + run]] = static_cast<int16_t>(reader.value(size));
    place += run + 1;
  } else {
    place += run == 15 ? 16 : BLOCK_END;
  }
  return true;
}

INLINE bool read_block(BitReader& reader, Scan::Component& component, Scan::Block& block) {
  if (!read_dc(reader, component)) return false;
  const AcTable& ac = *component.ac;
  int16_t* const out = block.coefficients;
  std::memset(out, 0, sizeof block.coefficients);
  out[0] = static_cast<int16_t>(component.previous);
  unsigned place = 1;
  const auto look_up = [&]() __attribute__((always_inline)) {
    const uint64_t entry = ac.entries[reader.ahead()];
    out[PLACES[place + (entry >> 16 & 255)]] = static_cast<int16_t>(entry >> 32);
    out[PLACES[place + (entry >> 24 & 255)]] = static_cast<int16_t>(entry >> 48);
    reader.drop(entry & 63);
    place += entry >> 8 & 255;
    return place < LAST_WITH_PAIRS;
  };
  while (place < LAST_WITH_PAIRS) {
    reader.refill();
    // Two entries, and a symbol if the third is none, have at most as many bits as are held.
    if ((look_up() && look_up() && look_up()) || place < AcTable::UNKNOWN) continue;
    place -= AcTable::UNKNOWN;
    if (!read_one(reader, ac, place, out)) return false;
  }
  while (place < 64) {
    reader.refill();
    if (!read_one(reader, ac, place, out)) return false;
  }
  block.num = static_cast<int>(place < BLOCK_END ? 64 : place - BLOCK_END);
  return true;
}

INLINE bool skip_one(BitReader& reader, const AcTable& table, unsigned& place) {
  const int symbol = reader.symbol(table.codes);
  if (symbol < 0) return false;
  const unsigned run = static_cast<unsigned>(symbol) >> 4, size = symbol & 15;
  reader.drop(size);
  place += size || run == 15 ? run + 1 : BLOCK_END;
  return true;
}

INLINE bool skip_block(BitReader& reader, Scan::Component& component) {
  if (!read_dc(reader, component)) return false;
  const AcTable& ac = *component.ac;
  unsigned place = 1, skip, next;
  const auto look_up = [&]() __attribute__((always_inline)) {
    skip = ac.skips[reader.ahead()], next = place + (skip >> 6);
    if (next >= 64) return false;
    reader.drop(skip & 63);
    place = next;
    return true;
  };
  while (place < 64) {
    reader.refill();
    if (look_up() && look_up()) continue;  // both, or one and a symbol, have at most as many bits as are held
    if (next >= BLOCK_END && next < BLOCK_END + 64) return reader.drop(skip & 63), true;
    // An unknown code, or symbols of which some may be of the next block.
    if (!skip_one(reader, ac, place)) return false;
  }
  return true;
}

INLINE bool read_mcu(Bits& bits, Scan::Component* components, int num_components, Scan::Block* block) {
  BitReader reader(bits);
  for (Scan::Component* component = components; component < components + num_components; ++component) {
    for (int n = component->blocks; n--; ++block) {
      if (component->only_dc) {
        if (!skip_block(reader, *component)) return false;
        block->coefficients[0] = static_cast<int16_t>(component->previous), block->num = 1;
      } else if (!read_block(reader, *component, *block)) {
        return false;
      }
    }
  }
  return !reader.ran_out();
}

INLINE bool skip_mcus(Bits& bits, Scan::Component* components, int num_components, int num) {
  BitReader reader(bits);
  while (num--) {
    for (Scan::Component* component = components; component < components + num_components; ++component)
      for (int n = component->blocks; n--;)
        if (!skip_block(reader, *component)) return false;
    if (reader.ran_out()) return false;
  }
  return true;
}

struct Kernels {
  bool (*read)(Bits& bits, Scan::Component* components, int num_components, Scan::Block* blocks);
  bool (*skip)(Bits& bits, Scan::Component* components, int num_components, int num);
};

bool read_portable(Bits& bits, Scan::Component* components, int num_components, Scan::Block* blocks) {
  return read_mcu(bits, components, num_components, blocks);
}
bool skip_portable(Bits& bits, Scan::Component* components, int num_components, int num) {
  return skip_mcus(bits, components, num_components, num);
}

#if defined(AVX2)  // for its shifts by a register, which keep the flags
AVX2 bool read_avx2(Bits& bits, Scan::Component* components, int num_components, Scan::Block* blocks) {
  return read_mcu(bits, components, num_components, blocks);
}
AVX2 bool skip_avx2(Bits& bits, Scan::Component* components, int num_components, int num) {
  return skip_mcus(bits, components, num_components, num);
}
#endif

Kernels kernels() {
#if defined(AVX2)
  if (has_avx2()) return {read_avx2, skip_avx2};
#endif
  return {read_portable, skip_portable};
}

}  // namespace

const uint8_t* Bits::take(const uint8_t* bytes, const uint8_t* end) {
  const size_t most = static_cast<size_t>(end - bytes) + MAX_OVERRUN;
  if (bytes_.size() < most) bytes_.resize(most);
  uint8_t* out = bytes_.data();
  window_ = 0, held_ = 0;
  next_ = out;
  while (const void* found = std::memchr(bytes, 0xFF, static_cast<size_t>(end - bytes))) {
    const uint8_t* at = static_cast<const uint8_t*>(found);
    const bool is_data = end - at >= 2 && at[1] == 0;
    const size_t num = static_cast<size_t>(at - bytes) + is_data;
    std::memcpy(out, bytes, num);
    out += num;
    if (!is_data) {
      std::memset(out, 0, MAX_OVERRUN);
      end_ = out;
      return end - at >= 2 && at[1] != 0xFF ? at : nullptr;  // after 0xFF any number of them may follow, or nothing
    }
    bytes = at + 2;
  }
  end_ = next_;
  return nullptr;
}

bool Bits::seek(ptrdiff_t place) {
  if (place > 8 * (end_ - bytes_.data())) return false;
  next_ = bytes_.data() + place / 8, window_ = 0, held_ = 0;
  BitReader reader(*this);
  reader.refill();
  reader.drop(static_cast<unsigned>(place % 8));
  return true;
}

bool Scan::start(const Header& header, const uint8_t* end) {
  if (!build_tables(header)) return false;
  num_components_ = header.num_components;
  for (int c = 0; c < num_components_; ++c) {
    const Header::Component& from = header.components[c];
    components_[c] = {from.across * from.down, false, &dc_[from.dc], &ac_[from.ac], 0};
  }
  interval_ = header.restart_interval;
  to_restart_ = interval_ ? interval_ : INT_MAX;
  restarts_ = 0;
  end_ = end;
  marker_ = bits_.take(header.scan, end);
  return marker_;
}

bool Scan::read_mcu() {
  if (!to_restart_ && !restart()) return false;
  --to_restart_;
  return kernels().read(bits_, components_, num_components_, blocks_);
}

bool Scan::skip_mcus(int num) {
  while (num) {
    if (!to_restart_ && !restart()) return false;
    const int at_once = std::min(num, to_restart_);
    if (!kernels().skip(bits_, components_, num_components_, at_once)) return false;
    to_restart_ -= at_once, num -= at_once;
  }
  return true;
}

bool Scan::seek(const e18_row& row) {
  for (int c = 0; c < num_components_; ++c) components_[c].previous = row.dc[c];
  return !interval_ && bits_.seek(row.bit);
}

bool Scan::tell(e18_row& row) const {
  const ptrdiff_t place = bits_.place();
  row = {static_cast<uint32_t>(place), {}, 0};
  for (int c = 0; c < num_components_; ++c) {
    row.dc[c] = static_cast<int16_t>(components_[c].previous);
    if (row.dc[c] != components_[c].previous) return false;
  }
  return !interval_ && place <= UINT32_MAX;
}

bool Scan::end_row() {
  for (int c = 0; c < num_components_; ++c)
    if (std::abs(components_[c].previous) > MAX_DC) return false;
  return true;
}

bool Scan::build_tables(const Header& header) {
  bool has_dc[4]{}, has_ac[4]{};
  for (int c = 0; c < header.num_components; ++c) {
    const auto [id, across, down, quant, dc, ac] = header.components[c];
    if (!has_dc[dc] && !dc_[dc].build(header.dc[dc])) return false;
    if (!has_ac[ac] && !ac_[ac].build(header.ac[ac])) return false;
    has_dc[dc] = has_ac[ac] = true;
  }
  return true;
}

// Nothing but the padding of the last byte may stand before the marker that is due.
bool Scan::restart() {
  if (bits_.left() >= 8 || marker_[1] != RST0 + restarts_ % 8) return false;
  ++restarts_;
  to_restart_ = interval_;
  for (int c = 0; c < num_components_; ++c) components_[c].previous = 0;
  marker_ = bits_.take(marker_ + 2, end_);
  return marker_;
}

}  // namespace eighteen
