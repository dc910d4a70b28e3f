import type { Command } from 'commander'
import type { PeerReport } from '../client/reports.ts'
import type { Context } from './context.ts'
import { agent } from './roles-here.ts'
import { tableText } from './output.ts'
import { showOrWatch, WATCH } from './watch.ts'

export function peersCommand(program: Command, context: () => Context): void {
  program
    .command('peers')
    .description(
      'list the nodes that this one has a session with: path, round-trip time, carriers, streams, bytes, datagrams, cipher',
    )
    .option(...WATCH)
    .action(async ({ watch }: { watch?: boolean }) => {
      const here = context()
      const read = async () => {
        const value = (await agent(here, '/peers')) as PeerReport[]
        return { value, text: textOf(value) }
      }
      await showOrWatch(read, here, watch)
    })
}

function textOf(peers: readonly PeerReport[]): string {
  return tableText(
    ['node', 'path', 'rtt ms', 'carriers', 'streams', 'bytes in', 'bytes out', 'datagrams', 'cipher'],
    peers.map(
      ({
        node,
        path,
        relay,
        rttMs,
        carriers,
        carrierPaths = [],
        asidePaths: pinned = [],
        streams,
        bytesIn,
        bytesOut,
        datagrams,
        cipher = 'unknown',
        datagramCipher = cipher,
        isDuplicated = false,
      }) => [
        isDuplicated ? `${node} (runs twice)` : node,
        relay === undefined ? path : `${path} by ${hostOf(relay)}`,
        rttMs?.toFixed(2),
        counted(carrierPaths, pinned) || carriers,
        streams,
        bytesIn,
        bytesOut,
        datagrams,
        datagramCipher === cipher ? cipher : `${cipher}, datagrams ${datagramCipher}`,
      ],
    ),
  )
}

/** `wss://relay.example.org:443` is `relay.example.org:443` to people. */
function hostOf(relay: string): string {
  return URL.parse(relay)?.host ?? relay
}

/** `2 direct, 1 relayed by rule`: carriers by rule are pinned to flows that must not, or should not, use the others. */
function counted(paths: readonly string[], pinned: readonly string[]): string {
  return [...new Set(paths)]
    .map((path) => {
      const [all, ruled] = [paths, pinned].map((list) => list.filter((one) => one === path).length) as [number, number]
      return `${all} ${path}${ruled === 0 ? '' : all === ruled ? ' by rule' : `, ${ruled} of them by rule`}`
    })
    .join(', ')
}
