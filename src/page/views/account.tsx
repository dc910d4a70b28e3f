import { hashOf } from '../model/route.ts'
import { type Tab, tabsOf } from '../model/who.ts'
import { useDesk } from '../parts/desk.tsx'
import { Audit } from './account/audit.tsx'
import { Clusters } from './account/clusters.tsx'
import { MeView } from './account/me.tsx'
import { Organisations } from './account/organisations.tsx'
import { Tokens } from './account/tokens.tsx'
import { Users } from './account/users.tsx'

const NAMES: Readonly<Record<Tab, string>> = {
  me: 'You',
  organisations: 'Organisations',
  users: 'Users',
  clusters: 'Owners of clusters',
  tokens: 'Tokens',
  audit: 'Audit log',
}

/** Who one is, and people: each part for those who may. */
export function Account({ open, now }: { open: string | undefined; now: number }) {
  const { me } = useDesk()
  const tabs = tabsOf(me)
  const tab = tabs.find((one) => one === open) ?? 'me'
  return (
    <div class="view account">
      <div class="tools">
        <nav class="chips" aria-label="Parts of the account">
          {tabs.map((one) => (
            <a key={one} href={hashOf({ view: 'account', open: one })} aria-current={one === tab ? 'page' : undefined}>
              {NAMES[one]}
            </a>
          ))}
        </nav>
      </div>
      <section class="sheets" aria-label={NAMES[tab]} tabIndex={0}>
        <TabOf tab={tab} now={now} />
      </section>
    </div>
  )
}

function TabOf({ tab, now }: { tab: Tab; now: number }) {
  switch (tab) {
    case 'me':
      return <MeView now={now} />
    case 'organisations':
      return <Organisations />
    case 'users':
      return <Users now={now} />
    case 'clusters':
      return <Clusters />
    case 'tokens':
      return <Tokens now={now} />
    case 'audit':
      return <Audit now={now} />
    default:
      tab satisfies never
      return undefined
  }
}
