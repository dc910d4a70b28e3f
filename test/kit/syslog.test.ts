import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { join } from 'node:path'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import t from 'tap'
import { explain } from '../../src/core/errors.ts'
import type { SendResult } from '../../src/core/kit/otlp.ts'
import { lineOf, type SyslogLine } from '../../src/core/kit/syslog-wires.ts'
import { SyslogSender } from '../../src/core/kit/syslog.ts'
import { checkTlsFiles, type TlsFiles } from '../../src/core/kit/tls-files.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { forge } from '../identity/mesh.ts'
import { keptLog } from '../proxy/world.ts'
import { ManualClock } from '../support/manual-clock.ts'

const line = (text: string, more: Partial<SyslogLine> = {}): SyslogLine => ({
  atMs: 1_700_000_000_000,
  severity: 'info',
  kind: 'flow-ended',
  text,
  ...more,
})

async function sender(endpoint: string, tls: TlsFiles = {}) {
  const clock = new ManualClock()
  const log = keptLog()
  const counts: Record<SendResult, number> = { sent: 0, failed: 0, dropped: 0 }
  const parts = { clock, log, counted: (result: SendResult, count: number) => void (counts[result] += count), tls }
  const running = await SyslogSender.start(new URL(endpoint), parts)
  /** Time passes until the fact. */
  const passing = async (fact: () => boolean) => {
    while (!fact()) {
      await clock.advance(500)
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }
  const end = async () => {
    const ended = running[Symbol.asyncDispose]()
    let isOver = false
    void ended.then(() => (isOver = true))
    await passing(() => isOver)
  }
  return { running, log, counts, passing, end, [Symbol.asyncDispose]: end }
}

/** Each line by itself: `LENGTH SPACE LINE`. */
function unframed(bytes: string): string[] {
  const lines: string[] = []
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(' ', at)
    const length = Number(bytes.slice(at, space))
    lines.push(bytes.slice(space + 1, space + 1 + length))
    at = space + 1 + length
  }
  return lines
}

t.test('a line is what RFC 5424 has', (t) => {
  t.equal(
    lineOf(line('{"flow":"1"}'), 'edge-1', 4711),
    '<30>1 2023-11-14T22:13:20.000Z edge-1 hedgerow 4711 flow-ended - {"flow":"1"}',
  )
  t.match(lineOf(line('x', { severity: 'warn' }), 'é', 1), /^<28>1 \S+ - hedgerow 1 /, 'without a host name in ASCII')
  t.end()
})

for (const host of ['127.0.0.1', '[::1]'])
  t.test(`datagrams to ${host}: one for each line, none longer than every receiver takes`, async (t) => {
    const received: string[] = []
    const daemon = createSocket(host === '[::1]' ? 'udp6' : 'udp4').bind(0, host.replaceAll(/[[\]]/g, ''))
    t.teardown(() => void daemon.close())
    daemon.on('message', (bytes) => void received.push(bytes.toString()))
    await once(daemon, 'listening')
    await using out = await sender(`udp://${host}:${daemon.address().port}`)
    out.running.offer(line('a'))
    out.running.offer(line('b'.repeat(5_000)))
    await out.passing(() => received.length === 2)
    t.match(received[0], / hedgerow \d+ flow-ended - a$/)
    t.equal(received[1]?.length, 2_048)
    t.same(out.counts, { sent: 2, failed: 0, dropped: 0 })
  })

t.test('a stream: lines by their length; after the daemon was away they go on, and it is told once', async (t) => {
  let received = ''
  const sockets: Socket[] = []
  const daemon = createServer((socket) => {
    sockets.push(socket)
    socket.on('data', (bytes) => (received += bytes.toString()))
  })
  const port = await freePort()
  await using out = await sender(`tcp://127.0.0.1:${port}`)
  out.running.offer(line('a'))
  await out.passing(() => out.log.lines.length === 1)
  daemon.listen(port, '127.0.0.1')
  t.teardown(() => void daemon.close())
  await out.passing(() => out.counts.sent === 1)
  t.same(
    out.log.lines.map(({ sentence }) => sentence),
    ['syslog cannot be reached', 'syslog is reached again'],
  )
  const [first] = sockets
  first?.destroy()
  await out.passing(() => sockets.every(({ destroyed }) => destroyed))
  out.running.offer(line('b'))
  out.running.offer(line('c'))
  await out.passing(() => unframed(received).some((text) => text.endsWith(' c')))
  t.match(unframed(received)[0], /^<30>1 .* a$/)
  for (const socket of sockets) socket.destroy()
})

t.test(
  'what waits is bounded, what still waits at the end is sent, and an end takes no longer than a moment',
  async (t) => {
    const away = await sender(`tcp://127.0.0.1:${await freePort()}`)
    for (let i = 0; i < 5_000; i++) away.running.offer(line(`${i}`))
    t.same(away.counts, { sent: 0, failed: 0, dropped: 904 })
    await away.end()
    t.same(away.counts, { sent: 0, failed: 0, dropped: 5_000 })

    let received = ''
    const daemon = createServer((socket) => void socket.on('data', (bytes) => (received += bytes.toString())))
    daemon.listen(0, '127.0.0.1')
    await once(daemon, 'listening')
    t.teardown(() => void daemon.close())
    const last = await sender(`tcp://127.0.0.1:${(daemon.address() as AddressInfo).port}`)
    for (let i = 0; i < 300; i++) last.running.offer(line(`${i}`))
    await last.end()
    t.same(last.counts, { sent: 300, failed: 0, dropped: 0 })
    await last.passing(() => unframed(received).length === 300)
  },
)

t.test('over TLS: a daemon with the right name gets lines, any other none', async (t) => {
  const authority = await forge({ subject: 'CN=logs', isCa: true })
  const other = await forge({ subject: 'CN=others', isCa: true })
  const issued = async (value: string, by = authority) =>
    forge({ subject: 'CN=x', names: [{ type: value === 'localhost' ? 'dns' : 'ip', value }], by })
  const node = await issued('127.0.0.1')
  const folder = t.testdir({ ca: authority.chain, certificate: node.chain, key: node.key })
  const files = { ca: join(folder, 'ca'), certificate: join(folder, 'certificate'), key: join(folder, 'key') }

  /** Takes lines from whoever shows a certificate of the authority. */
  const daemonOf = async ({ key, chain }: { key: string; chain: string }, host = '127.0.0.1') => {
    const options = { key, cert: chain, ca: authority.chain, requestCert: true, rejectUnauthorized: true }
    let received = ''
    const shown: (string | undefined)[] = []
    const daemon = createTlsServer(options, (socket: TLSSocket) => {
      shown.push(socket.getPeerX509Certificate()?.fingerprint256)
      socket.on('data', (bytes) => (received += bytes.toString())).on('error', () => undefined)
    })
    daemon.listen(0, '127.0.0.1')
    await once(daemon, 'listening')
    t.teardown(() => void daemon.close())
    return {
      endpoint: `tls://${host}:${(daemon.address() as AddressInfo).port}`,
      lines: () => unframed(received),
      shown,
    }
  }

  const named = [await daemonOf(await issued('127.0.0.1')), await daemonOf(await issued('localhost'), 'localhost')]
  for (const daemon of named) {
    await using out = await sender(daemon.endpoint, files)
    out.running.offer(line('a'))
    await out.passing(() => daemon.lines().length === 1)
    t.match(daemon.lines()[0], /^<30>1 .* flow-ended - a$/, daemon.endpoint)
  }
  const rows = [
    { why: 'for another address', daemon: await daemonOf(await issued('127.0.0.2')), files },
    { why: 'of another authority', daemon: await daemonOf(await issued('127.0.0.1', other)), files },
    { why: 'of an authority that Node does not know', daemon: named[0], files: { ...files, ca: undefined } },
    { why: 'the files are gone', daemon: named[0], files: { ca: join(folder, 'none') } },
  ]
  for (const { why, daemon, files } of rows) {
    await using out = await sender(daemon?.endpoint ?? '', files as TlsFiles)
    out.running.offer(line('secret'))
    await out.passing(() => out.log.lines.length === 1)
    t.match(out.log.lines[0], { sentence: 'syslog cannot be reached' }, why)
    t.same(
      daemon?.lines().filter((text) => text.endsWith('secret')),
      [],
      why,
    )
  }

  const [first] = named
  const renewed = await issued('127.0.0.1')
  writeFileSync(files.certificate, renewed.chain)
  writeFileSync(files.key, renewed.key)
  await using out = await sender(first?.endpoint ?? '', files)
  out.running.offer(line('b'))
  await out.passing(() => first?.lines().length === 2)
  t.equal(new Set(first?.shown).size, 2, 'a renewed certificate is shown')
})

t.test('files that cannot be used are a fault of the configuration', (t) => {
  const folder = t.testdir({ text: 'no PEM' })
  const rows = [
    { files: {}, says: undefined },
    {
      files: { ca: join(folder, 'none') },
      says: /agent\.flowLog\.tls: these files cannot be used: no such file or directory, .*none$/,
    },
    { files: { certificate: join(folder, 'text') }, says: /only of use together/ },
    { files: { certificate: join(folder, 'text'), key: join(folder, 'text') }, says: /cannot be used/ },
  ]
  for (const { files, says } of rows) {
    const check = () => checkTlsFiles('agent.flowLog.tls', files)
    if (says === undefined) t.doesNotThrow(check)
    else t.match(explainOf(check), says)
  }
  t.end()
})

function explainOf(check: () => void): string {
  try {
    check()
    return ''
  } catch (error) {
    return explain(error)
  }
}

t.test('without a daemon on this machine, it is said', async (t) => {
  await using out = await sender(`unix://${t.testdir()}/none`)
  out.running.offer(line('a'))
  await out.passing(() => out.log.lines.length === 1)
  t.match(out.log.lines[0], { sentence: 'syslog cannot be reached', fields: { error: { code: 'ENOENT' } } })
})
