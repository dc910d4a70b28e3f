import { createServer, connect, type AddressInfo } from 'node:net'
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { openPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { Aead } from '../../proxy/tunnel/sealed/aead.ts'
import { Opener } from '../../proxy/tunnel/sealed/opener.ts'
import { Sealer } from '../../proxy/tunnel/sealed/sealer.ts'
import { SealedUdp } from '../../proxy/tunnel/sealed/endpoint.ts'
import { UdpPort } from '../../proxy/tunnel/sealed/udp-port.ts'
import { cipherList } from '../../src/core/identity/ciphers.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { tlsFor } from '../support/tls.ts'

/**
 * What a datagram costs, in CPU time: `node test/bench/sealed-micro.ts [packets] [bytes] [mtu]`. Two nodes in one process, real
 * UDP on loopback; both ends are counted, applications are not. Quick figures to tune by, not to publish.
 */
const packets = Number(process.argv[2] ?? 60_000)
const bytes = Number(process.argv[3] ?? 1_200)
const mtu = Number(process.argv[4] ?? 1_500)
const payload = Buffer.alloc(bytes, 7)

function report(what: string, count: number, since: NodeJS.CpuUsage): void {
  const { user, system } = process.cpuUsage(since)
  const each = (us: number) => (us / count).toFixed(2)
  console.log(`${what.padEnd(34)} ${each(user + system)} µs a datagram (user ${each(user)}, system ${each(system)})`)
}

/** The AEAD and its surroundings alone. */
function crypto(aead: Aead): void {
  const sealer = new Sealer({ secret: Buffer.alloc(32, 1), aead }, 1, 0)
  const opener = new Opener({ secret: Buffer.alloc(32, 1), aead })
  const out = Buffer.alloc(9_000)
  const sealed: Buffer[] = []
  let from = process.cpuUsage()
  for (let i = 0; i < packets; i++) {
    const length = sealer.seal(payload, out)
    if (i < 4_000) sealed.push(Buffer.from(out.subarray(0, length)))
  }
  report(`seal ${aead}`, packets, from)
  for (const packet of sealed.slice(0, 1_000)) opener.open(packet)
  from = process.cpuUsage()
  for (const packet of sealed.slice(1_000)) opener.open(packet)
  report(`open ${aead}`, sealed.length - 1_000, from)
}

interface SideOptions {
  name: string
  /** The other side's port. */
  dial?: number
  isSealed: boolean
  datagram: () => void
}

async function side({ name, dial, isSealed, datagram }: SideOptions) {
  const secure = (await certificates)[name]!
  let room: SealedUdp | undefined
  const udp = await UdpPort.start(
    {
      host: '127.0.0.1',
      port: 0,
      addresses: (port) => [`127.0.0.1:${port}`],
      onPacket: (packet, from) => room?.receive(packet, from),
    },
    silentLog,
  )
  udp.mtuTowards = () => Promise.resolve(mtu)
  room = new SealedUdp({
    self: `c/${name}`,
    port: udp,
    now: () => performance.now(),
    burstPerSecond: Number.POSITIVE_INFINITY,
  })
  const peers = openPeers({
    self: `c/${name}`,
    dialers:
      dial === undefined
        ? []
        : [
            {
              path: 'direct',
              suits: () => true,
              dial: async () => {
                const stream = connect(dial, '127.0.0.1')
                await once(stream, 'connect')
                return { path: 'direct', stream, via: 'bench' }
              },
            },
          ],
    secure,
    ...(isSealed ? { sealed: room } : {}),
    accept: (incoming) => void incoming.acceptDatagrams({ ...silent, datagram }),
  })
  return { peers, room, udp }
}

const silent = { datagram: () => undefined, end: () => undefined, reset: () => undefined }
const certificates = tlsFor(['a', 'b'], { a: cipherList(), b: cipherList() })

async function overLoopback(isSealed: boolean): Promise<void> {
  let got = 0
  const b = await side({ name: 'b', isSealed, datagram: () => (got += 1) })
  const server = createServer((stream) => b.peers.incoming({ path: 'direct', stream, via: 'bench' })).listen(
    0,
    '127.0.0.1',
  )
  await once(server, 'listening')
  const a = await side({ name: 'a', isSealed, dial: (server.address() as AddressInfo).port, datagram: () => undefined })
  const session = await a.peers.session({ id: 'c/b', addresses: [], relays: [] }, AbortSignal.timeout(5_000))
  const opened = Promise.withResolvers<void>()
  const stream = session.openDatagrams(Buffer.from('x'), {
    ...silent,
    opened: opened.resolve,
    refused: () => opened.reject(new Error('refused')),
  })
  await opened.promise

  const run = async (what: string, count: number) => {
    got = 0
    const before = { packets: a.room.packetsOut, at: performance.now() }
    const from = process.cpuUsage()
    let dropped = 0
    for (let sent = 0; sent < count; sent++) {
      if (!stream.send(payload)) dropped += 1
      if (sent % 30 === 29) await turn()
    }
    for (let idle = 0, seen = got; idle < 50; idle = seen === got ? idle + 1 : 0) {
      seen = got
      await turn()
    }
    report(what, count, from)
    const seconds = (performance.now() - before.at) / 1_000
    console.log(
      `  ${Math.round(count / seconds)}/s on this machine now, ${got} of ${count} arrived, ${dropped} dropped at once, ${a.room.packetsOut - before.packets} packets`,
    )
  }

  const wake = performance.now()
  while (session.report().datagrams !== (isSealed ? 'sealed' : 'frames') || performance.now() - wake < 2_500) {
    stream.send(payload)
    await turn()
  }
  const how = session.report().datagrams
  await run(`${how}, warming up`, packets / 4)
  await run(how, packets)
  await a.peers[Symbol.asyncDispose]()
  await b.peers[Symbol.asyncDispose]()
  server.close()
  await a.udp[Symbol.asyncDispose]()
  await b.udp[Symbol.asyncDispose]()
}

for (const aead of ['aes-256-gcm', 'chacha20-poly1305'] as const) crypto(aead)
await overLoopback(false)
await overLoopback(true)
