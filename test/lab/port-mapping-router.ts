import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { isIPv4 } from 'node:net'
import { serveUpnp } from './upnp-router.ts'

/**
 * A router's port mapping service, for the lab: PCP (RFC 6887) or NAT-PMP (RFC 6886) on UDP port 5351 inside, or UPnP
 * (upnp-router.ts), each mapping a dnat rule of this namespace. Written against the RFCs, not with the codec it tests.
 *
 *     node port-mapping-router.ts <address inside> <address outside> <pcp|nat-pmp|upnp>      prints what it maps
 */
const [inside = '', outside = '', speaks = ''] = process.argv.slice(2)
if (!isIPv4(inside) || !isIPv4(outside)) throw new Error('two IPv4 addresses, and pcp, nat-pmp or upnp')
const LIFETIME = 120
const startedAt = Date.now()
const mappings = new Map<string, { handle: string; owner: string; external: string }>()

nft('insert rule ip filter through_router ct status dnat accept')
if (speaks === 'upnp') {
  const owner = 'upnp'
  serveUpnp(
    {
      inside,
      outside,
      map: (wanted) => map({ ...wanted, lifetime: 1, owner }) !== undefined,
      unmap: (protocol, external) => {
        const [key] = [...mappings].find(([, one]) => one.external === `${protocol} ${external}`) ?? []
        const [, host, port] = key?.split(' ') ?? []
        return (
          key !== undefined &&
          map({ protocol, host: host!, port: Number(port), external, lifetime: 0, owner }) !== undefined
        )
      },
    },
    () => console.log('ready'),
  )
} else {
  const socket = createSocket('udp4')
  socket.on('message', (packet, from) => {
    const answer = speaks === 'pcp' ? pcp(packet, from.address) : natPmp(packet, from.address)
    if (answer !== undefined) socket.send(answer, from.port, from.address)
  })
  socket.bind(5351, inside, () => console.log('ready'))
}

function pcp(packet: Buffer, from: string): Buffer | undefined {
  if (packet[0] !== 2 || packet[1] !== 1 || packet.length !== 60) return undefined
  const answer = Buffer.from(packet)
  answer[1] = 0x81
  answer.fill(0, 2, 24)
  answer.writeUInt32BE(epoch(), 8)
  const client = packet.subarray(20, 24).join('.')
  if (client !== from) {
    answer[3] = 12 // ADDRESS_MISMATCH
    return answer
  }
  const protocol = packet[36] === 6 ? 'tcp' : 'udp'
  const owner = packet.subarray(24, 36).toString('hex')
  const lifetime = packet.readUInt32BE(4)
  const result = map({ protocol, host: from, port: packet.readUInt16BE(40), lifetime, owner })
  if (result === undefined) {
    answer[3] = 2 // NOT_AUTHORIZED
    return answer
  }
  answer.writeUInt32BE(lifetime === 0 ? 0 : LIFETIME, 4)
  answer.writeUInt16BE(result, 42)
  Buffer.from([...Buffer.alloc(10), 255, 255, ...outside.split('.').map(Number)]).copy(answer, 44)
  return answer
}

function natPmp(packet: Buffer, from: string): Buffer | undefined {
  if (packet[0] !== 0) {
    const answer = Buffer.alloc(8) // RFC 6886 §3.5: the version it speaks, "unsupported version"
    answer[1] = 128 | (packet[1] ?? 0)
    answer.writeUInt16BE(1, 2)
    answer.writeUInt32BE(epoch(), 4)
    return answer
  }
  if (packet[1] === 0) {
    const answer = Buffer.alloc(12)
    answer[1] = 128
    answer.writeUInt32BE(epoch(), 4)
    Buffer.from(outside.split('.').map(Number)).copy(answer, 8)
    return answer
  }
  if (packet.length !== 12) return undefined
  const port = packet.readUInt16BE(4)
  const lifetime = packet.readUInt32BE(8)
  const mapped = map({ protocol: packet[1] === 1 ? 'udp' : 'tcp', host: from, port, lifetime, owner: '' })
  const answer = Buffer.alloc(16)
  answer[1] = 128 | packet[1]!
  answer.writeUInt32BE(epoch(), 4)
  answer.writeUInt16BE(port, 8)
  answer.writeUInt16BE(lifetime === 0 ? 0 : (mapped ?? 0), 10)
  answer.writeUInt32BE(lifetime === 0 ? 0 : LIFETIME, 12)
  return answer
}

/** Another port outside than inside, as a router may choose; by UPnP it is the asker that does. */
function map(wanted: {
  protocol: string
  host: string
  port: number
  lifetime: number
  owner: string
  external?: number
}): number | undefined {
  const { protocol, host, port, lifetime, owner, external = 20_000 + (port % 10_000) } = wanted
  const key = `${protocol} ${host} ${port}`
  const known = mappings.get(key)
  if (known !== undefined && known.owner !== owner) return undefined
  if (lifetime === 0) {
    if (known !== undefined) nft(`delete rule ip nat before handle ${known.handle}`)
    mappings.delete(key)
    console.log(`removed ${protocol} ${external}`)
    return external
  }
  if (known === undefined) {
    const rule = `iifname "wan" ${protocol} dport ${external} dnat ip to ${host}:${port}`
    const told = nft(`-a -e add rule ip nat before ${rule}`)
    mappings.set(key, { handle: /handle (\d+)/.exec(told)?.[1] ?? '', owner, external: `${protocol} ${external}` })
  }
  console.log(`${known === undefined ? 'mapped' : 'renewed'} ${protocol} ${external} ${host}:${port}`)
  return external
}

function epoch(): number {
  return Math.floor((Date.now() - startedAt) / 1_000)
}

function nft(command: string): string {
  return execFileSync('nft', command.match(/"[^"]*"|\S+/g) ?? [], { encoding: 'utf8' })
}
