import { imageOfThisMachine } from '../../../src/lab/docker/image.ts'
import { run, text } from '../../../src/lab/program.ts'
import { javaLookup } from './java.ts'
import { FOLDER, resolverPrograms } from './resolver-programs.ts'
import { PORT, type World } from './world.ts'

const IDLE = ['sleep', '1000000']

/** Static programs with nothing beside them, and those that load libraries and configuration of their image, look up a name. */
export async function resolvers(world: World): Promise<string[]> {
  const java = javaLookup(FOLDER)
  const image = await imageOfThisMachine({
    programs: ['getent', ...(typeof java === 'string' ? [] : [java.java])],
    files: typeof java === 'string' ? [] : java.files,
  })
  await world.apply('names', [
    { name: 'web', cmd: ['httpd', '-f', '-p', '80'], port: `${PORT}:80` },
    { name: 'bare', cmd: IDLE },
    { name: 'whole', cmd: IDLE, code: image, memory: 512 },
  ])
  const [bare = ''] = await world.containers('names.acme.bare')
  const [whole = ''] = await world.containers('names.acme.whole')
  const lines: string[] = []
  for (const { what, file, reason } of resolverPrograms()) {
    if (file === undefined) lines.push(leftOut(what, reason))
    else {
      await text(['docker', 'cp', file, `${bare}:/lookup`])
      lines.push(...(await lookedUp(what, bare, ['/lookup'])))
    }
  }
  lines.push(...(await lookedUp('glibc, with nsswitch.conf (getent)', whole, ['getent', 'ahosts'])))
  lines.push(...(typeof java === 'string' ? [leftOut('Java', java)] : await lookedUp('Java', whole, java.argv)))
  await world.remove('names')
  return lines
}

async function lookedUp(what: string, container: string, argv: readonly string[]): Promise<string[]> {
  const lines: string[] = []
  for (const zone of ['local', 'internal']) {
    const name = `names.acme.web.prod.any.closest.${zone}`
    const { code, stdout, stderr } = await run(['docker', 'exec', container, ...argv, name], { timeoutMs: 60_000 })
    const found = new Set(stdout.split('\n').flatMap((line) => line.split(' ')[0] || []))
    lines.push(
      `resolvers: ${what}: .${zone}: ${code === 0 ? [...found].join(' ') : `FAILS with ${code}: ${stderr.trim()}`}`,
    )
  }
  return lines
}

function leftOut(what: string, reason = 'no reason'): string {
  return `resolvers: ${what}: left out (${reason})`
}
