import { parseConnections } from '../../../proxy/kernel/connections.ts'
import { parseCounters } from '../../../proxy/kernel/counters.ts'
import { rowsOf, socketIn } from '../../../proxy/intercept/proc-sockets.ts'
import { parsePorts } from '../../../proxy/intercept/vip-rules.ts'
import { ownGroups } from '../../../src/core/kit/cgroup.ts'
import { findUsers } from '../../../src/core/kit/local-users.ts'
import { networkOf } from '../../../src/core/kit/network.ts'
import { vipRange } from '../../../src/core/model/address.ts'
import { routeLine, routeMetrics } from '../../../src/netcheck/local.ts'
import { parseStat, uidsIn } from '../../../src/orchestrator/worker/process-group.ts'
import type { FuzzTarget } from '../target.ts'

/* What the kernel shows in /proc, and what its tools print: of another version, cut short, or written by a sandbox that imitates it. */

const isUid = (uid: number) => Number.isInteger(uid) && uid >= 0

const ENDS = ['0100007F:D431 0100007F:1F90', `${'0'.repeat(24)}01000000:D431 ${'0'.repeat(24)}01000000:1F90`]
const SOCKETS = [
  '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode',
  `   0: ${ENDS[0]} 01 00000000:00000000 00:00000000 00000000  1000        0 26413 1 0 20 4 30 10 -1`,
  `   1: ${ENDS[1]} 0A 00000000:00000000 00:00000000 00000000     0        0 26414 1 0 100 0 0 10 0`,
  '   2: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 311 2 0 0',
].join('\n')

export const procSockets: FuzzTarget = {
  name: 'proc-sockets',
  seeds: [Buffer.from(SOCKETS), Buffer.from(`${SOCKETS}\n`)],
  run(bytes) {
    const table = bytes.toString('latin1')
    const rows = rowsOf(table)
    for (const { port, uid, inode } of rows)
      if (port < 0 || !isUid(uid) || inode === '')
        throw new Error(`a socket of port ${port}, user ${uid}, inode ${inode}`)
    const [local, remote] = (ENDS[0] as string).split(' ')
    const socket = socketIn(table, local, remote)
    if (socket !== undefined && !isUid(socket.uid)) throw new Error(`a socket of user ${socket.uid}`)
    return `${Math.min(rows.length, 9)} sockets, ${socket === undefined ? 'not ours' : 'ours'}`
  },
}

export const procUsers: FuzzTarget = {
  name: 'proc-users',
  seeds: [Buffer.from(SOCKETS)],
  async run(bytes) {
    const found = new Map<string, number>()
    await findUsers(new Set(ENDS), bytes.toString('latin1'), found)
    for (const uid of found.values()) if (!isUid(uid)) throw new Error(`a connection of user ${uid}`)
    return `${found.size} users`
  },
}

export const procProcess: FuzzTarget = {
  name: 'proc-process',
  seeds: [
    '1234 (a) b) S 1 1234 1234 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 5530 10000 200 18446744073709551615',
    'Name:\tnode\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t60578\t60578\t60578\t60578\nGid:\t0\t0\t0\t0\n',
  ].map((text) => Buffer.from(text)),
  run(bytes) {
    const text = bytes.toString('latin1')
    const stat = parseStat(text)
    if (stat !== undefined && ![stat.pid, stat.pgrp, stat.session, stat.startTime].every(Number.isFinite))
      throw new Error('a process without numbers')
    const uids = uidsIn(text)
    if (!uids.every(isUid)) throw new Error('a process of no user')
    return `${stat === undefined ? 'no' : 'a'} process, ${Math.min(uids.length, 5)} users`
  },
}

export const procGroups: FuzzTarget = {
  name: 'proc-groups',
  seeds: [
    '30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\f0::/system.slice/hedgerow.service\n',
    '31 23 0:27 /docker/a /sys/fs/cgroup/freezer ro - cgroup cgroup rw,freezer\n\f7:freezer:/docker/a/b\n2:cpu,cpuacct:/\n',
  ].map((text) => Buffer.from(text)),
  run(bytes) {
    const [mountinfo = '', membership = ''] = bytes.toString('latin1').split('\f')
    const groups = ownGroups(mountinfo, membership)
    for (const path of groups) if (!path.startsWith('/')) throw new Error(`a group at ${path}`)
    return `${Math.min(groups.length, 4)} groups`
  },
}

export const routes: FuzzTarget = {
  name: 'routes',
  seeds: [
    'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\n\f',
    `\f${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n`,
    'default via 192.168.1.1 proto dhcp metric 100 mtu lock 1400 congctl bbr linkdown\n',
  ].map((text) => Buffer.from(text)),
  run(bytes) {
    const text = bytes.toString('latin1')
    const [v4 = '', v6 = ''] = text.split('\f')
    const { defaults } = networkOf({}, { v4, v6 }, () => true)
    const { mtu } = routeMetrics(text)
    if (mtu !== undefined && !Number.isFinite(mtu)) throw new Error(`an MTU of ${mtu}`)
    const line = routeLine(text, { device: 'eth0', metric: 100 })
    if (line !== undefined && /[^\w .:/@-]/.test(line)) throw new Error('a route that a shell would take apart')
    return `${Math.min(defaults.length, 3)} routes, ${mtu === undefined ? 'no' : 'an'} MTU, ${line === undefined ? 'no' : 'a'} line`
  },
}

/** Of a text that is no JSON, or not a list of items, both say so by throwing, which their callers expect. */
function orRefused(run: () => string): string {
  try {
    return run()
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return `refused: ${error.name}`
    throw error
  }
}

const nft = (...items: unknown[]) =>
  Buffer.from(JSON.stringify({ nftables: [{ metainfo: { version: '1.0.6' } }, ...items] }))

export const nftPorts: FuzzTarget = {
  name: 'nft-ports',
  seeds: [
    nft(
      {
        map: {
          family: 'inet',
          name: 'tcp_to',
          table: 't',
          type: 'inet_service',
          map: 'inet_service',
          elem: [[22, 61_022]],
        },
      },
      {
        map: {
          name: 'udp_to',
          elem: [
            [53, 61_053],
            [80, 61_080],
          ],
        },
      },
      { map: { name: 'tcp_from', elem: [[61_022, 22]] } },
    ),
  ],
  run: (bytes) =>
    orRefused(() => {
      const { tcp, udp } = parsePorts(bytes.toString('utf8'))
      for (const port of [...tcp, ...udp].flat())
        if (!Number.isInteger(port) || port < 1 || port > 65_535) throw new Error(`port ${port}`)
      return `${Math.min(tcp.size, 4)} and ${Math.min(udp.size, 4)} ports`
    }),
}

export const nftCounters: FuzzTarget = {
  name: 'nft-counters',
  seeds: [
    nft(
      { counter: { family: 'inet', name: 'sent_1', table: 't', packets: 3, bytes: 180 } },
      {
        rule: {
          comment: 'flows_1',
          expr: [{ match: {} }, { counter: { packets: 1, bytes: 60 } }, { counter: 'sent_1' }],
        },
      },
    ),
  ],
  run: (bytes) =>
    orRefused(() => {
      const readings = parseCounters(bytes.toString('utf8'))
      for (const [name, { packets, bytes }] of readings)
        if (!(packets >= 0) || !(bytes >= 0)) throw new Error(`${name} counts ${packets} packets of ${bytes} bytes`)
      return `${Math.min(readings.size, 4)} counters`
    }),
}

export const conntrackLines: FuzzTarget = {
  name: 'conntrack-lines',
  seeds: [
    Buffer.from(
      'tcp 6 431999 ESTABLISHED src=127.0.0.1 dst=10.30.1.2 sport=40390 dport=80 src=127.0.0.1 dst=127.0.0.1 sport=20001 dport=40390\n',
    ),
  ],
  run: (bytes) => `${parseConnections(bytes.toString('latin1'), vipRange('10.30.0.0/16')).length} connections`,
}
