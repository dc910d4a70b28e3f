import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { imageOfThisMachine } from '../../../src/lab/docker/image.ts'
import { Program, text } from '../../../src/lab/program.ts'
import { hasTool } from '../../../src/lab/system-tools.ts'
import { median } from './figures.ts'
import { PLAIN, PORT, type World } from './world.ts'

const SERVER = `require('http').createServer((q,r)=>r.end('hello')).listen(80,'0.0.0.0')`
const IDLE = ['sleep', '1000000']
const HAPROXY = `defaults
 mode tcp
 timeout connect 5s
 timeout client 60s
 timeout server 60s
listen web
 bind ${PLAIN.gateway}:${PORT}
 server one ${PLAIN.at(2)}:80
`

/** 64 connections of wrk in one container to a server of Node in another, in turns. */
export async function requests(world: World, { rounds, seconds }: { rounds: number; seconds: number }) {
  const image = await imageOfThisMachine({ programs: ['wrk'] })
  const server = [process.execPath, '-e', SERVER]
  await world.apply('load', [
    { name: 'web', code: image, cmd: server, port: `${PORT}:80`, memory: 512 },
    { name: 'wrk', code: image, cmd: IDLE, memory: 512 },
  ])
  const [mine = ''] = await world.containers('load.acme.wrk')
  const plain = ['docker', 'run', '--detach', '--network', PLAIN.name]
  const others = [
    (await text([...plain, '--ip', PLAIN.at(2), image, ...server])).trim(),
    (await text([...plain, image, ...IDLE])).trim(),
  ]
  const [, other = ''] = others
  const folder = mkdtempSync(join(tmpdir(), 'hedgerow-haproxy-'))
  writeFileSync(join(folder, 'haproxy.cfg'), HAPROXY)
  const haproxy = hasTool('haproxy') ? Program.start(['haproxy', '-db', '-f', join(folder, 'haproxy.cfg')]) : undefined
  try {
    const lanes = {
      bridge: lane(other, `http://${PLAIN.at(2)}/`, seconds),
      ...(haproxy === undefined ? {} : { haproxy: lane(other, `http://${PLAIN.gateway}:${PORT}/`, seconds) }),
      hedgerow: lane(mine, `http://load.acme.web.prod.any.closest.local:${PORT}/`, seconds),
    }
    const figures: Record<string, number[]> = {}
    for (let round = 0; round < rounds; round++)
      for (const [name, ask] of Object.entries(lanes)) (figures[name] ??= []).push(await ask())
    return lines(figures)
  } finally {
    await haproxy?.stop()
    rmSync(folder, { recursive: true })
    await text(['docker', 'rm', '--force', ...others])
    await world.remove('load')
  }
}

function lane(container: string, url: string, seconds: number): () => Promise<number> {
  const argv = ['docker', 'exec', container, 'wrk', '-t', '1', '-c', '64', '-d', `${seconds}s`, url]
  return async () => {
    const said = await text(argv, { timeoutMs: seconds * 1_000 + 30_000 })
    return Number(/Requests\/sec:\s+([\d.]+)/.exec(said)?.[1])
  }
}

function lines({ bridge = [], haproxy = [], hedgerow = [] }: Record<string, number[]>): string[] {
  const ours = median(hedgerow)
  const beside = (name: string, all: readonly number[]) =>
    all.length === 0
      ? []
      : [`requests: ${name} ${Math.round(median(all))} a second; hedgerow ${(ours / median(all)).toFixed(2)} × of it`]
  return [
    `requests: hedgerow ${Math.round(ours)} a second`,
    ...beside('Docker’s bridge', bridge),
    ...beside('one hop of HAProxy', haproxy),
  ]
}
