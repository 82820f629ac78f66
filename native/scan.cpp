#include "scan.h"

#include <cstdlib>

namespace eighteen {
namespace {

constexpr int RST0 = 0xD0;
constexpr int MAX_DC = 1 << 20;  // far beyond a coefficient, and so far from an int's end that no row of MCUs leads there

}  // namespace

bool Scan::start(const Header& header, const uint8_t* end) {
  if (!build_tables(header)) return false;
  num_components_ = header.num_components;
  for (int c = 0; c < num_components_; ++c) {
    const Header::Component& from = header.components[c];
    components_[c] = {&dc_[from.dc], &ac_[from.ac], from.across * from.down, 0};
  }
  interval_ = to_restart_ = header.restart_interval;
  restarts_ = 0;
  end_ = end;
  marker_ = bits_.take(header.scan, end);
  return marker_;
}

bool Scan::begin_mcu() {
  if (bits_.ran_out()) return false;
  return !interval_ || to_restart_-- || restart();
}

int Scan::read(int component, int16_t* block) {
  Component& from = components_[component];
  return blocks_.read(bits_, *from.dc, *from.ac, from.previous, block);
}

bool Scan::skip(int component) {
  Component& from = components_[component];
  return blocks_.skip(bits_, *from.dc, *from.ac, from.previous);
}

bool Scan::skip_mcu() {
  if (!begin_mcu()) return false;
  for (int c = 0; c < num_components_; ++c)
    for (int block = components_[c].blocks; block--;)
      if (!skip(c)) return false;
  return true;
}

bool Scan::end_row() {
  for (int c = 0; c < num_components_; ++c)
    if (std::abs(components_[c].previous) > MAX_DC) return false;
  return !bits_.ran_out();
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
  to_restart_ = interval_ - 1;
  for (int c = 0; c < num_components_; ++c) components_[c].previous = 0;
  marker_ = bits_.take(marker_ + 2, end_);
  return marker_;
}

}  // namespace eighteen
