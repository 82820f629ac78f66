#include "header.h"

#include <cstring>

namespace eighteen {
namespace {

constexpr int MAX_SIDE = 65500;  // libjpeg's JPEG_MAX_DIMENSION

enum Marker { SOF0 = 0xC0, DHT = 0xC4, SOI = 0xD8, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD, APP0 = 0xE0, APP14 = 0xEE, APP15 = 0xEF, COM = 0xFE };

int word(const uint8_t* bytes) { return bytes[0] << 8 | bytes[1]; }

// Reads one header; what it has seen so far tells the colours in the end.
class Parser {
 public:
  Parser(Header& header, const uint8_t* bytes, size_t length) : header_(header), next_(bytes), end_(bytes + length) {}

  bool run() {
    if (end_ - next_ < 2 || next_[0] != 0xFF || next_[1] != SOI) return false;
    next_ += 2;
    while (end_ - next_ >= 4) {
      if (next_[0] != 0xFF) return false;
      const int marker = next_[1], length = word(next_ + 2);
      if (length < 2 || end_ - next_ < 2 + length) return false;
      const uint8_t* body = next_ + 4;
      next_ += 2 + length;
      if (marker == SOS) return scan(body, length - 2);
      if (!segment(marker, body, length - 2)) return false;
    }
    return false;
  }

 private:
  bool segment(int marker, const uint8_t* body, int length) {
    switch (marker) {
      case SOF0: return frame(body, length);
      case DHT: return huffman(body, length);
      case DQT: return quants(body, length);
      case DRI: return length == 2 && (header_.restart_interval = word(body), true);
      case APP0: return jfif(body, length);
      case APP14: return adobe(body, length);
      case COM: return true;
      default: return marker > APP0 && marker <= APP15;
    }
  }

  bool frame(const uint8_t* body, int length) {
    if (header_.num_components || length < 6 || body[0] != 8) return false;
    header_.height = word(body + 1), header_.width = word(body + 3);
    const int num = body[5];
    if ((num != 1 && num != 3) || length != 6 + 3 * num) return false;
    if (!header_.width || !header_.height || header_.width > MAX_SIDE || header_.height > MAX_SIDE) return false;
    for (int c = 0; c < num; ++c) {
      const uint8_t* one = body + 6 + 3 * c;
      header_.components[c] = {one[0], one[1] >> 4, one[1] & 15, one[2], 0, 0};
      if (one[2] > 3) return false;
    }
    header_.num_components = num;
    return has_plain_sampling();
  }

  // 4:4:4, 4:2:2, 4:2:0, or gray, where the factors mean nothing.
  bool has_plain_sampling() {
    Header::Component *luma = header_.components, *chroma = luma + 1;
    if (header_.num_components == 1) {
      if (luma->across < 1 || luma->across > 4 || luma->down < 1 || luma->down > 4) return false;
      luma->across = luma->down = 1;
      return true;
    }
    for (int c = 0; c < 2; ++c)
      if (chroma[c].across != 1 || chroma[c].down != 1) return false;
    return luma->across >= 1 && luma->across <= 2 && luma->down >= 1 && luma->down <= luma->across;
  }

  bool huffman(const uint8_t* body, int length) {
    while (length >= 17) {
      const int kind = body[0] >> 4, slot = body[0] & 15;
      HuffmanSpec spec{body + 1, body + 17, 0};
      for (int bits = 0; bits < 16; ++bits) spec.num += spec.counts[bits];
      if (kind > 1 || slot > 3 || spec.num > 256 || spec.num > length - 17) return false;
      (kind ? header_.ac : header_.dc)[slot] = spec;
      body += 17 + spec.num, length -= 17 + spec.num;
    }
    return length == 0;
  }

  bool quants(const uint8_t* body, int length) {
    for (; length >= 65; body += 65, length -= 65) {
      if (body[0] > 3) return false;  // of 16 bits, or none of the four slots
      header_.quants[body[0]] = body + 1;
    }
    return length == 0;
  }

  bool jfif(const uint8_t* body, int length) {
    if (length < 14 || std::memcmp(body, "JFIF", 5)) return true;
    saw_jfif_ = true;
    return body[5] == 1;  // libjpeg warns of other versions
  }

  bool adobe(const uint8_t* body, int length) {
    if (length < 12 || std::memcmp(body, "Adobe", 5)) return true;
    saw_adobe_ = true, transform_ = body[11];
    return true;
  }

  bool scan(const uint8_t* body, int length) {
    const int num = header_.num_components;
    if (!num || length != 4 + 2 * num || body[0] != num) return false;
    for (int c = 0; c < num; ++c) {
      Header::Component& component = header_.components[c];
      const uint8_t* one = body + 1 + 2 * c;
      component.dc = one[1] >> 4, component.ac = one[1] & 15;
      if (one[0] != component.id || component.dc > 3 || component.ac > 3) return false;
      if (!header_.dc[component.dc].counts || !header_.ac[component.ac].counts || !header_.quants[component.quant])
        return false;
    }
    const uint8_t* spectrum = body + 1 + 2 * num;
    if (spectrum[0] != 0 || spectrum[1] != 63 || spectrum[2] != 0) return false;
    header_.scan = next_;
    return num == 1 || is_ycbcr();
  }

  // libjpeg's rules: JFIF is YCbCr, Adobe says, and otherwise the names of the components tell.
  bool is_ycbcr() const {
    const Header::Component* c = header_.components;
    if (c[0].id == c[1].id || c[0].id == c[2].id || c[1].id == c[2].id) return false;
    if (saw_jfif_) return true;
    if (saw_adobe_) return transform_ == 1;
    return !(c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B');
  }

  Header& header_;
  const uint8_t *next_, *end_;
  bool saw_jfif_ = false, saw_adobe_ = false;
  int transform_ = 0;
};

}  // namespace

bool Header::parse(const uint8_t* bytes, size_t length) {
  *this = {};
  return Parser(*this, bytes, length).run();
}

}  // namespace eighteen
