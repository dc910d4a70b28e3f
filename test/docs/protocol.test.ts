import { readFileSync } from 'node:fs'
import { test } from 'tap'
import { REFUSALS as RELAY_REFUSALS } from '../../proxy/relay/wire/messages.ts'
import { REFUSALS } from '../../proxy/tunnel/contract.ts'
import { TUNNEL_LIMITS } from '../../proxy/tunnel/limits.ts'
import { LAST_EPOCH } from '../../proxy/tunnel/sealed/keys.ts'
import { MAX_ADDRESSES } from '../../proxy/tunnel/sealed/offer.ts'
import {
  FLOOR_BYTES,
  MAGIC,
  MAX_PACKET_BYTES,
  PROBE_BYTES,
  RECORD,
  SEAL_BYTES,
} from '../../proxy/tunnel/sealed/packet.ts'
import { REPLAY_WINDOW } from '../../proxy/tunnel/sealed/replay.ts'
import { MAX_EARLY_DATAGRAMS } from '../../proxy/tunnel/stream/early-buffer.ts'
import { FRAME_RULES } from '../../proxy/tunnel/wire/frame-decoder.ts'
import { FRAME, HEADER_BYTES, MAX_EARLY_BYTES, MAX_PAYLOAD } from '../../proxy/tunnel/wire/frame.ts'
import { FEATURE, PROMISED, PROTOCOL_VERSION } from '../../proxy/tunnel/wire/hello.ts'
import { CARRIERS_PER_RESUME, STREAMS_PER_RESUME } from '../../proxy/tunnel/wire/resume.ts'

const page = readFileSync(new URL('../../docs/protocol.md', import.meta.url), 'utf8')

/** The cells of the table with this header row, without the code marks. */
function table(header: string): string[][] {
  const lines = page.split('\n')
  const at = lines.findIndex((line) => line.startsWith(header))
  if (at < 0) throw new Error(`docs/protocol.md has no table "${header}"`)
  const end = lines.findIndex((line, i) => i > at && !line.startsWith('|'))
  return lines.slice(at + 2, end).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim().replaceAll('`', '')),
  )
}

const withCommas = (number: number) => number.toLocaleString('en-US')

test('the table of frames has every type with its code, scope and lengths', async (t) => {
  const rows = Object.entries(FRAME).map(([name, code]) => {
    const { scope, min, max } = FRAME_RULES[code]!
    return [name, String(code), scope, `${min}–${max}`]
  })
  t.same(
    table('| type | code | scope').map((row) => row.slice(0, 4)),
    rows,
  )
})

test('the table of features has every bit', async (t) => {
  t.same(Object.fromEntries(table('| feature | bit').map(([name, bit]) => [name, Number(bit)])), FEATURE)
})

test('the table of refusals has every code in its order', async (t) => {
  t.same(
    table('| refusal | code').map(([name, code]) => [name, Number(code)]),
    REFUSALS.map((name, code) => [name, code]),
  )
})

test('the table of records has every kind', async (t) => {
  t.same(Object.fromEntries(table('| record | kind').map(([name, kind]) => [name, Number(kind)])), RECORD)
})

test('the table of relay refusals has every reason with its status', async (t) => {
  t.same(
    table('| the relay refuses with').map(([reason, status]) => [reason, status]),
    Object.entries(RELAY_REFUSALS).map(([reason, status]) => [reason, status.slice(0, 3)]),
  )
})

test('the table of limits has the defaults of the code', async (t) => {
  const { streams, pendingOpens, openTimeoutMs, bufferedBytes, carriers, unproven } = TUNNEL_LIMITS
  t.same(
    table('| limit | default').map(([, value]) => value),
    [streams, pendingOpens, openTimeoutMs, bufferedBytes, carriers, unproven].map((limit, i) =>
      i === 2 ? `${withCommas(limit)} ms` : withCommas(limit),
    ),
  )
})

test('numbers in the text are those of the code', async (t) => {
  const sentences = {
    'a header': `a header of ${HEADER_BYTES} bytes`,
    'longest payload': `No payload is longer than ${withCommas(MAX_PAYLOAD)} bytes`,
    'early data': `up to ${withCommas(MAX_EARLY_BYTES)} bytes of DATA (or up to ${MAX_EARLY_DATAGRAMS} DATAGRAMs`,
    'promised window': `a window of ${withCommas(PROMISED.windowBytes)} bytes`,
    'first window': `Windows begin at\n${withCommas(TUNNEL_LIMITS.windowBytes)} bytes`,
    'largest window': `up to ${withCommas(TUNNEL_LIMITS.maxWindowBytes)} bytes`,
    'carriers in RESUME': `lost carriers (at most ${CARRIERS_PER_RESUME})`,
    'streams in RESUME': `at most ${withCommas(STREAMS_PER_RESUME)} in one\nframe`,
    'resume time': `within ${withCommas(TUNNEL_LIMITS.resumeMs)} ms`,
    version: `| version | ${PROTOCOL_VERSION}.`,
    magic: `│ 0x${MAGIC.toString(16)} │`,
    'longest packet': `at most ${withCommas(MAX_PACKET_BYTES)} bytes`,
    'shortest packet': `shorter than ${SEAL_BYTES} bytes`,
    'short probe': `a short one (${SEAL_BYTES + PROBE_BYTES} bytes of UDP payload)`,
    'padded probe': `padded to ${withCommas(FLOOR_BYTES)} bytes`,
    'replay window': `at least ${withCommas(REPLAY_WINDOW)} numbers`,
    'last epoch': `Epoch ${withCommas(LAST_EPOCH)} has no successor`,
    addresses: `at most ${MAX_ADDRESSES} addresses`,
  }
  for (const [what, sentence] of Object.entries(sentences)) t.ok(page.includes(sentence), `${what}: "${sentence}"`)
})
