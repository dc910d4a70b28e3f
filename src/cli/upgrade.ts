import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import type { Context } from './context.ts'
import { isData, printData } from './output.ts'
import { rolesHere, type RoleName } from './roles-here.ts'
import { say } from './terminal.ts'

export const INSTALLATIONS = ['Debian package', 'archive', 'npm package', 'clone'] as const
type Installation = (typeof INSTALLATIONS)[number]

interface UpgradeFacts {
  version: string
  installation: Installation
  /** What runs with this state directory. */
  roles: readonly RoleName[]
}

interface Step {
  why: string
  commands: readonly string[]
}

/** Changes nothing: where a package comes from, only its operator knows. */
export function upgradeCommand(program: Command, context: () => Context): void {
  program
    .command('upgrade')
    .description('print what to do for a new version, as this one was installed; it is not done')
    .action(async () => {
      const here = context()
      const facts = { version: here.version, installation: installationHere(), roles: rolesHere(here) }
      const steps = upgradeSteps(facts)
      if (isData(here)) return printData({ ...facts, steps }, here)
      say(`hedgerow ${facts.version}, from the ${facts.installation}`)
      for (const [at, { why, commands }] of steps.entries()) {
        say(`${at + 1}. ${why}:`)
        for (const command of commands) say(`   ${command}`)
      }
    })
}

const DEBIAN = '/usr/lib/hedgerow/node'

function installationHere(): Installation {
  if (process.execPath === DEBIAN) return 'Debian package'
  if (process.execPath.endsWith('/lib/hedgerow/node')) return 'archive'
  return existsSync(fileURLToPath(new URL('../../.config/build.ts', import.meta.url))) ? 'clone' : 'npm package'
}

const INSTALL: Readonly<Record<Installation, readonly string[]>> = {
  'Debian package': ['apt install ./hedgerow_VERSION_ARCH.deb'],
  archive: [
    'tar -xzf hedgerow-VERSION-linux-ARCH.tar.gz -C /opt',
    'ln -sfn /opt/hedgerow-VERSION-linux-ARCH/bin/hedgerow /usr/local/bin/hedgerow',
  ],
  'npm package': ['npm install --global hedgerow-VERSION.tgz'],
  clone: ['git pull', 'npm ci'],
}

/** In this order nothing fails meanwhile: docs/operations.md says what each restart interrupts. */
export function upgradeSteps({ installation, roles }: UpgradeFacts): Step[] {
  // `hedgerow restart` hands over an agent, and a mesh of one machine, which has all three in one process and no units
  const isByHand = installation === 'clone' || installation === 'npm package' || installation === 'archive'
  const restarts = ['root', 'cluster', 'relay', 'agent'].flatMap((role) => {
    if (!roles.includes(role as RoleName)) return []
    if (role === 'agent') return ['hedgerow restart']
    if (isByHand && roles.includes('agent')) return []
    return [isByHand ? `end \`hedgerow ${role}\`, and start it again` : `systemctl try-restart hedgerow-${role}`]
  })
  return [
    {
      why: 'On the machine of the root first; before that, a copy of its keys and stores',
      commands: ['hedgerow backup FILE'],
    },
    { why: 'Install the new version; what runs is not touched by it', commands: INSTALL[installation] },
    {
      why:
        restarts.length > 0
          ? 'Start what runs here again; flows and instances go on'
          : 'Nothing runs here with this state directory; where a role runs, start it again',
      commands: restarts.length > 0 ? restarts : ['hedgerow restart'],
    },
    {
      why: 'See which version each node runs, and that all is well',
      commands: ['hedgerow get nodes -o wide', 'hedgerow check --mesh'],
    },
  ]
}
