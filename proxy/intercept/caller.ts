import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { parseIPv4, parseIPv6 } from '../../src/core/model/address.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import type { Target } from '../../src/core/table/view.ts'
import { authorise } from '../decide/authorise.ts'
import { type Caller, instanceCaller, NODE_CALLER } from '../flow/flow.ts'
import type { CallerEnd } from './interceptor.ts'
import { unmapped } from '../../src/core/kit/host-port.ts'

/*
 * Which instance of this node opened a connection to a VIP:
 *
 *   accepted socket ─▶ its pair of addresses in /proc/net/tcp(6) ─┐
 *   datagram's source ─▶ every socket in /proc/net/udp(6) with     ├─▶ inode ─▶ /proc/<pid>/fd of the instances' processes
 *                        that port: all must be one owner's       ─┘
 *
 * The source address of a datagram proves nothing: a socket may send from any address of the machine (IP_PKTINFO), and to
 * others than it is connected to. Its port does.
 *
 * Asked only where the answer decides something: some caller on this node may call the target and another may not, or the
 * choice is `any.pinned`. All that wait are looked up in one scan; scans follow one another; long lists are read in slices.
 * /proc is read synchronously inside a slice: 3 µs a link, against 30 µs for a promise.
 */

/** An instance on this node and its first processes; what these started counts as theirs. */
export interface InstanceProcesses {
  instance: InstanceId
  pids: readonly number[]
}

/** Links read in one turn of the event loop: under 1 ms. */
const SLICE = 256

/** Connections waiting for a scan; more cannot be told. */
const WAITING_LIMIT = 4_096

interface Waiting {
  end: CallerEnd
  resolve: (owner: Owner) => void
}

type Owner = Caller | 'unclear'

export class CallerFinder {
  readonly #processesOf: () => Iterable<InstanceProcesses>
  #waiting: Waiting[] = []
  #isScanning = false

  /** `processesOf`: the instances that run here, asked anew for each connection. */
  constructor(processesOf: () => Iterable<InstanceProcesses>) {
    this.#processesOf = processesOf
  }

  /** `undefined`: it cannot be told (processes of another user, a caller that has gone), and an instance here may not call. */
  readonly identify = (end: CallerEnd, target: Target): Caller | Promise<Caller | undefined> => {
    const here = [...this.#processesOf()].map(({ instance }) => instanceCaller(instance)).filter((c) => c !== undefined)
    if (here.length === 0 || !matters(here, target)) return NODE_CALLER
    return this.#find(end).then((owner) => {
      if (owner !== 'unclear') return owner
      return here.every((caller) => authorise(caller, target.service).allowed) ? NODE_CALLER : undefined
    })
  }

  #find(end: CallerEnd): Promise<Owner> {
    if (this.#waiting.length >= WAITING_LIMIT) return Promise.resolve('unclear')
    const { promise, resolve } = Promise.withResolvers<Owner>()
    this.#waiting.push({ end, resolve })
    if (!this.#isScanning) void this.#scanAll()
    return promise
  }

  async #scanAll(): Promise<void> {
    this.#isScanning = true
    while (this.#waiting.length > 0) {
      const waiting = this.#waiting
      this.#waiting = []
      const owners = await scan(
        waiting.map(({ end }) => end),
        [...this.#processesOf()],
      ).catch(() => undefined)
      for (const [i, { resolve }] of waiting.entries()) resolve(owners?.[i] ?? 'unclear')
    }
    this.#isScanning = false
  }
}

/** Whether it makes a difference which of the callers on this node it is. */
function matters(here: readonly Caller[], { service, choice }: Target): boolean {
  if (choice.instance === 'any' && choice.policy === 'pinned') return true
  const { allowed } = authorise(NODE_CALLER, service)
  return here.some((caller) => authorise(caller, service).allowed !== allowed)
}

async function scan(ends: readonly CallerEnd[], processes: readonly InstanceProcesses[]): Promise<Owner[]> {
  const inodes = await inodesOf(ends)
  const wanted = new Set(inodes.flat())
  const owners = new Map<string, InstanceId>()
  let isUnreadable = false
  let left = SLICE
  for (const [pid, instance] of wanted.size === 0 ? [] : await members(processes)) {
    try {
      for (const fd of readdirSync(`/proc/${pid}/fd`)) {
        if (--left === 0) {
          await turn()
          left = SLICE
        }
        const inode = inodeAt(`/proc/${pid}/fd/${fd}`)
        if (inode !== undefined && wanted.has(inode)) owners.set(inode, instance)
      }
    } catch (error) {
      // Where /proc hides the processes of others (hidepid), what is hidden looks as if it had ended.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || isRunning(pid)) isUnreadable = true
    }
    if (owners.size === wanted.size) break
  }
  return inodes.map((candidates) => {
    const found = new Set(candidates.map((inode) => owners.get(inode)))
    if (found.size > 1 && found.delete(undefined)) {
      const ours = ownInodes() // of flows to instances: never a caller
      if (candidates.some((inode) => !owners.has(inode) && !ours.has(inode))) return 'unclear'
    }
    if (found.size !== 1) return 'unclear'
    const [instance] = found
    if (instance !== undefined) return instanceCaller(instance) ?? 'unclear'
    return isUnreadable ? 'unclear' : NODE_CALLER
  })
}

/** This agent's own sockets. Rarely asked for: thousands of links are read in one go. */
function ownInodes(): Set<string> {
  const inodes = readdirSync('/proc/self/fd').map((fd) => inodeAt(`/proc/self/fd/${fd}`))
  return new Set(inodes.filter((inode) => inode !== undefined))
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}

function inodeAt(link: string): string | undefined {
  try {
    return /^socket:\[(\d+)\]$/.exec(readlinkSync(link))?.[1]
  } catch {
    return undefined // closed meanwhile
  }
}

/** The processes of each instance: its first ones, their groups and sessions, and whatever any of these started. */
async function members(processes: readonly InstanceProcesses[]): Promise<Map<number, InstanceId>> {
  const first = new Map(processes.flatMap(({ instance, pids }) => pids.map((pid) => [pid, instance] as const)))
  const found = new Map(first)
  const others: { pid: number; parent: number }[] = []
  let left = SLICE
  for (const name of readdirSync('/proc')) {
    if (name.charCodeAt(0) > 57) continue
    if (--left === 0) {
      await turn()
      left = SLICE
    }
    const stat = statOf(Number(name))
    if (stat === undefined) continue
    const instance = first.get(stat.group) ?? first.get(stat.session)
    if (instance !== undefined) found.set(stat.pid, instance)
    else others.push(stat)
  }
  for (let grew = true; grew; ) {
    grew = false
    for (const { pid, parent } of others) {
      const instance = found.get(parent)
      if (instance === undefined || found.has(pid)) continue
      found.set(pid, instance)
      grew = true
    }
  }
  return found
}

/** proc(5): `pid (name) state parent group session …`; the name may hold anything. */
function statOf(pid: number): { pid: number; parent: number; group: number; session: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ', 4)
    return { pid, parent: Number(fields[1]), group: Number(fields[2]), session: Number(fields[3]) }
  } catch {
    return undefined
  }
}

/** The inodes that each caller's end may be; none when the caller has closed it already. */
async function inodesOf(ends: readonly CallerEnd[]): Promise<string[][]> {
  const found: string[][] = ends.map(() => [])
  const connections = ends.flatMap((end, i) => ('protocol' in end ? [] : [{ i, pair: pairOf(end) }]))
  if (connections.length > 0) {
    const inodes = await connectionInodes(connections.map(({ pair }) => pair))
    for (const [at, { i }] of connections.entries()) found[i] = inodes[at] === undefined ? [] : [inodes[at]]
  }
  if (connections.length === ends.length) return found
  const byPort = await datagramInodes()
  for (const [i, end] of ends.entries()) if ('protocol' in end) found[i] = byPort.get(end.port) ?? []
  return found
}

interface Pair {
  local: Address
  remote: Address
}

function pairOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): Pair {
  return {
    local: { address: remoteAddress ?? '', port: remotePort ?? 0 },
    remote: { address: localAddress ?? '', port: localPort ?? 0 },
  }
}

/** Every UDP socket of the machine, by its port. */
async function datagramInodes(): Promise<Map<number, string[]>> {
  const tables = await Promise.all(
    ['udp', 'udp6'].map((table) => readFile(`/proc/self/net/${table}`, 'latin1').catch(() => '')),
  )
  const byPort = new Map<number, string[]>()
  for (const line of tables.flatMap((table) => table.split('\n').slice(1))) {
    const fields = line.trim().split(/ +/, 10)
    const port = Number.parseInt(fields[1]?.split(':')[1] ?? '', 16)
    const inode = fields[9]
    if (Number.isNaN(port) || inode === undefined || inode === '0') continue
    const others = byPort.get(port)
    if (others === undefined) byPort.set(port, [inode])
    else others.push(inode)
  }
  return byPort
}

async function connectionInodes(pairs: readonly Pair[]): Promise<(string | undefined)[]> {
  const v4 = await readFile('/proc/self/net/tcp', 'latin1')
  let inodes = pairs.map(({ local, remote }) => inodeIn(v4, procAddress4(local), procAddress4(remote)))
  if (inodes.every((inode) => inode !== undefined)) return inodes
  // IPv6, and programs that reach IPv4 through an IPv6 socket (Java).
  const v6 = await readFile('/proc/self/net/tcp6', 'latin1').catch(() => '')
  inodes = pairs.map(({ local, remote }, i) => inodes[i] ?? inodeIn(v6, procAddress6(local), procAddress6(remote)))
  return inodes
}

/** `sl local remote state tx:rx timer:when retransmits uid timeout inode …` */
function inodeIn(table: string, local: string | undefined, remote: string | undefined): string | undefined {
  if (local === undefined || remote === undefined) return undefined
  const start = table.indexOf(` ${local} ${remote} `)
  if (start < 0) return undefined
  const line = table.slice(start + 1, table.indexOf('\n', start))
  const inode = line.split(/ +/, 9)[8]
  return inode === undefined || inode === '0' ? undefined : inode
}

interface Address {
  address: string
  port: number
}

/** The kernel prints each 32-bit word as the machine holds it: little-endian on all that Node runs on but s390x. */
export function procAddress4({ address, port }: Address): string | undefined {
  const value = parseIPv4(unmapped(address))
  return value === undefined ? undefined : `${word(value)}:${hex(port, 4)}`
}

export function procAddress6({ address, port }: Address): string | undefined {
  const parts = parseIPv6(parseIPv4(address) === undefined ? address : `::ffff:${address}`)
  if (parts === undefined) return undefined
  const words = [0, 2, 4, 6].map((i) => word((parts[i] as number) * 0x10000 + (parts[i + 1] as number)))
  return `${words.join('')}:${hex(port, 4)}`
}

function word(value: number): string {
  const bytes = Buffer.allocUnsafe(4)
  bytes.writeUInt32BE(value, 0)
  return hex(IS_LITTLE_ENDIAN ? bytes.readUInt32LE(0) : value, 8)
}

const IS_LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1

function hex(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0')
}
