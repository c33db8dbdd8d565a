/**
 * `node wire-main.js SOCKET`, in the fleet's own network namespace: a TAP device named `wire`, to which the kernel diverts
 * the frames of links that are slow or faulty; here they wait, and then go on to whom they were for.
 *
 * Orders come as lines of JSON over the socket: `{ set: { LINK: WireRule } }`, `{ counts: true }`; each is answered by a line.
 */
import { spawn } from 'node:child_process'
import { rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { Departures, FrameReader, linkOfFrame, type WireCounts, WireLink, type WireRule } from '../wire.js'

/** About a tenth of a second of a full gigabit; beyond it frames are lost, as in a switch. */
const WAITING_MAX = 8192

/**
 * Node has no ioctl, by which a TAP device is opened; Perl, which every Debian has, hands frames to and fro: as many as there are
 * at once, each behind its length.
 */
const PUMP = `
use strict; use Fcntl; use Errno qw(EAGAIN);
sysopen(my $tap, "/dev/net/tun", O_RDWR | O_NONBLOCK) or die "/dev/net/tun: $!\\n";
my $request = pack("Z16 s x22", "wire", 0x1002);
ioctl($tap, 0x400454ca, $request) or die "TUNSETIFF: $!\\n";
syswrite(STDOUT, pack("n", 0));
my ($in, $frame, $ready) = ("", "", "");
my $watched = ""; vec($watched, fileno($tap), 1) = 1; vec($watched, fileno(STDIN), 1) = 1;
while (1) {
  select($ready = $watched, undef, undef, undef);
  if (vec($ready, fileno($tap), 1)) {
    my $out = "";
    while (length($out) < 65536 and sysread($tap, $frame, 65536)) { $out .= pack("n", length $frame) . $frame; }
    for (my $at = 0; $at < length $out;) { my $n = syswrite(STDOUT, $out, length($out) - $at, $at); defined $n or exit; $at += $n; }
  }
  if (vec($ready, fileno(STDIN), 1)) {
    sysread(STDIN, $in, 65536, length $in) or exit;
    my $at = 0;
    while (length($in) - $at >= 2) {
      my $size = unpack("n", substr($in, $at, 2));
      last if length($in) - $at - 2 < $size;
      syswrite($tap, $in, $size, $at + 2);
      $at += 2 + $size;
    }
    $in = substr($in, $at);
  }
}
`

const [socket = ''] = process.argv.slice(2)
const links = new Map<string, WireLink>()
const waiting = new Departures<Uint8Array>()
let refused = 0
let timer: NodeJS.Timeout | undefined

const pump = spawn('perl', ['-e', PUMP], { stdio: ['pipe', 'pipe', 'inherit'] })
pump.once('exit', (code) => {
  console.error(`the pump ended: ${code}`)
  process.exit(1)
})

const reader = new FrameReader()
pump.stdout.on('data', (bytes: Buffer) => {
  const nowMs = performance.now()
  for (const frame of reader.read(bytes)) {
    if (frame.length === 0) listen()
    else if (waiting.size >= WAITING_MAX) refused++
    else {
      const link = links.get(linkOfFrame(frame))
      // A link that has just become plain again: what was under way goes on at once.
      if (!link) waiting.add(nowMs, Buffer.from(frame))
      else for (const { atMs, frame: sent } of link.accept(frame, nowMs)) waiting.add(atMs, Buffer.from(sent))
    }
  }
  depart()
})

function depart(): void {
  const parts: Uint8Array[] = []
  const nowMs = performance.now()
  for (let frame = waiting.take(nowMs); frame; frame = waiting.take(nowMs)) {
    const length = Buffer.allocUnsafe(2)
    length.writeUInt16BE(frame.length)
    parts.push(length, frame)
  }
  if (parts.length > 0) pump.stdin.write(Buffer.concat(parts))
  clearTimeout(timer)
  timer = undefined
  const next = waiting.nextMs
  if (next !== undefined) timer = setTimeout(depart, Math.max(0, next - performance.now()))
}

/** Once the device is there: whoever connects may count on it. */
function listen(): void {
  rmSync(socket, { force: true })
  const server = createServer((connection) => {
    connection.on('error', () => connection.destroy())
    createInterface(connection).on('line', (line) => connection.write(`${JSON.stringify(answer(line))}\n`))
  })
  server.listen(socket)
}

function answer(line: string): unknown {
  const order = JSON.parse(line) as { set?: Record<string, WireRule>; counts?: true }
  if (order.set) {
    for (const link of links.keys()) if (!(link in order.set)) links.delete(link)
    // Counts go on where nothing changed.
    for (const [name, rule] of Object.entries(order.set))
      if (JSON.stringify(links.get(name)?.rule) !== JSON.stringify(rule))
        links.set(name, new WireLink(rule, Math.random))
    return { set: links.size }
  }
  const counts: Record<string, WireCounts> = {}
  for (const [name, link] of links) counts[name] = link.counts
  return { counts, refused, waiting: waiting.size }
}
