import { readlinkSync } from 'node:fs'
import { Program, run, text } from '../../src/lab/program.ts'
import { until } from '../support/until.ts'

/*
 * Datagrams that claim to be somebody else's:
 *
 *     a container's own network, with every right ─▶ the address of another container ─▶ bridge ─╳
 *     a container's own network, with every right ─▶ bridge ─▶ this machine, as a router ─▶ another container ─╳
 *     another interface of this machine ─▶ its own address, or a VIP ─▶ forwarded to a container ─╳
 *
 * Each is sent until the rule has counted it: the agent sets its rules anew from time to time, which begins the count again.
 */

interface Walked {
  /** The first process of a container. */
  pid: string
  /** The addresses of another. */
  other: { ipv4: string; ipv6: string }
  vip4: string
  vip6: string
}

/** Resolves with what was dropped; never, where something passes. */
export async function forgeries({ pid, other, vip4, vip6 }: Walked): Promise<string[]> {
  const inContainer = ['nsenter', `--net=/proc/${pid}/ns/net`]
  const seen: string[] = []
  for (const [from, to] of [
    [other.ipv4, vip4],
    [other.ipv6, vip6],
  ] as const) {
    await withAddress(inContainer, 'eth0', from, () => isDropped('sources', () => send(inContainer, from, to)))
    seen.push(`${from} from another container`)
  }
  await text([
    ...inContainer,
    'sh',
    '-c',
    `ip route add ${other.ipv4} via $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')`,
  ])
  await text(['sh', '-c', 'echo 1 > /proc/sys/net/ipv4/ip_forward'])
  await isDropped('outside', () => send(inContainer, '0.0.0.0', other.ipv4))
  await text([...inContainer, 'ip', 'route', 'delete', other.ipv4])
  seen.push('to another container, forwarded by this machine')

  await using stranger = Program.start(['unshare', '--net', 'sleep', '600'])
  const own = readlinkSync('/proc/self/ns/net')
  await until(() => netOf(stranger.pid) !== own, 'a network of its own')
  const outside = ['nsenter', `--net=/proc/${stranger.pid}/ns/net`]
  await text(['sh', '-c', ROUTER, 'sh', String(stranger.pid)])
  await text([...outside, 'sh', '-c', HOST])
  await isDropped('outside', () => send(outside, '172.31.255.2', other.ipv4))
  await withAddress(outside, 'host0', vip6, () => isDropped('outside', () => send(outside, vip6, other.ipv6)))
  await text(['ip', 'link', 'delete', 'router0'])
  return [...seen, 'past the agent from another interface', `${vip6} from another interface`]
}

const ROUTER = `ip link add router0 type veth peer name host0 netns $1
ip address add 172.31.255.1/24 dev router0
ip address add fd00:31::1/64 dev router0 nodad
ip link set router0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding`
const HOST = `ip address add 172.31.255.2/24 dev host0
ip address add fd00:31::2/64 dev host0 nodad
ip link set host0 up
ip route add default via 172.31.255.1
ip route add default via fd00:31::1`

async function withAddress(where: string[], device: string, address: string, act: () => Promise<void>): Promise<void> {
  const isIPv6 = address.includes(':')
  const what = [`${address}/${isIPv6 ? 128 : 32}`, 'dev', device]
  await text([...where, 'ip', 'address', 'add', ...what, ...(isIPv6 ? ['nodad'] : [])])
  await act()
  await text([...where, 'ip', 'address', 'delete', ...what])
}

/** To a port that services have. */
async function send(where: string[], from: string, to: string): Promise<void> {
  const script = `const socket = require('dgram').createSocket('udp${from.includes(':') ? 6 : 4}')
    socket.bind(0, '${from}', () => socket.send('forged', 8080, '${to}', () => socket.close()))`
  await run([...where, process.execPath, '-e', script])
}

async function isDropped(chain: string, act: () => Promise<void>): Promise<void> {
  const before = await dropped(chain)
  await until(async () => (await act(), (await dropped(chain)) > before), `${chain} drops it`)
}

async function dropped(chain: string): Promise<number> {
  const rules = await text(['nft', 'list', 'ruleset'])
  const chains = rules.split(/^\s*chain /m).filter((each) => each.startsWith(`${chain} {`))
  const counts = chains.flatMap((each) => [...each.matchAll(/counter packets (\d+) bytes \d+ drop/g)])
  return Array.from(counts, ([, count]) => Number(count)).reduce((sum, count) => sum + count, 0)
}

function netOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`)
  } catch {
    return ''
  }
}
