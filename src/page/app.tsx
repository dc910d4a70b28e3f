import type { ComponentType } from 'preact'
import { useEffect, useMemo, useState } from 'preact/hooks'
import { Api } from './live/api.ts'
import { Feed, type Shown } from './live/feed.ts'
import { logOut, whoAsks } from './live/people.ts'
import { type Auth, forgetAuth, keepAuth, keptAuth } from './live/session.ts'
import { type Mesh, NOTHING_YET } from './model/mesh.ts'
import { routeIn, type View } from './model/route.ts'
import type { Me } from './model/who.ts'
import { DeskAround } from './parts/desk.tsx'
import { Frame } from './views/frame.tsx'
import { Login } from './views/login.tsx'
import { MapView } from './views/map.tsx'
import { Nodes } from './views/nodes.tsx'
import { Services } from './views/services.tsx'
import { Why } from './views/why.tsx'

/** Who looks, what they look at, and the mesh as it is now. */
export function App() {
  const [auth, setAuth] = useState(keptAuth)
  const [problem, setProblem] = useState<string>()
  const leave = (why?: string) => {
    forgetAuth()
    setProblem(why)
    setAuth(undefined)
  }
  if (auth === undefined) {
    const enter = (entered: Auth) => {
      keepAuth(entered)
      setAuth(entered)
    }
    return <Login problem={problem} enter={enter} />
  }
  return <Live auth={auth} leave={leave} />
}

function Live({ auth, leave }: { auth: Auth; leave: (why?: string) => void }) {
  const ended = () =>
    leave(auth.kind === 'token' ? 'The root does not take this token.' : 'The session has ended. Log in again.')
  const api = useMemo(() => new Api(auth, ended), [auth])
  const [{ mesh, link }, setShown] = useState<Shown>({ mesh: NOTHING_YET, link: { state: 'connecting' } })
  const me = useMe(api, link.state)
  const route = useRoute()
  const now = useNow()
  useEffect(() => {
    const running = Feed.start(api, setShown, ended)
    return () => running.close()
  }, [api])
  const left = async () => {
    const isSession = auth.kind === 'session' || me?.by === 'session'
    if (isSession) await logOut(api).catch(() => undefined) // one that has ended, or a root that is gone: it ends by itself
    leave()
  }
  const { view, open } = route
  return (
    <DeskAround api={api} me={me}>
      <Frame view={view} link={link} mesh={mesh} now={now} leave={() => void left()}>
        <ViewOf view={view} mesh={mesh} open={open} now={now} />
      </Frame>
    </DeskAround>
  )
}

/** Asked once for each connection: roles may have changed meanwhile. */
function useMe(api: Api, state: Shown['link']['state']): Me | undefined {
  const [me, setMe] = useState<Me>()
  useEffect(() => {
    if (state === 'live') whoAsks(api).then(setMe, () => undefined) // the view says that the root is away
  }, [api, state])
  return me
}

function ViewOf({ view, mesh, open, now }: { view: View; mesh: Mesh; open: string | undefined; now: number }) {
  switch (view) {
    case 'services':
      return <Services mesh={mesh} open={open} now={now} />
    case 'calls':
      return <Later key="calls" load={() => import('./views/calls.tsx').then(({ Calls }) => Calls)} shown={{ mesh }} />
    case 'nodes':
      return <Nodes mesh={mesh} open={open} now={now} />
    case 'map':
      return <MapView mesh={mesh} />
    case 'why':
      return <Why mesh={mesh} open={open} now={now} />
    case 'deploy':
      return <Later key="deploy" load={() => import('./views/deploy.tsx').then(({ Deploy }) => Deploy)} shown={{}} />
    case 'account':
      return (
        <Later
          key="account"
          load={() => import('./views/account.tsx').then(({ Account }) => Account)}
          shown={{ open, now }}
        />
      )
    default:
      view satisfies never
      return undefined
  }
}

interface LaterProps<Props extends object> {
  load: () => Promise<ComponentType<Props>>
  shown: Props
}

/** What few need is loaded when it is opened: the reader of documents alone is as large as all the rest. */
function Later<Props extends object>({ load, shown }: LaterProps<Props>) {
  const [Loaded, setLoaded] = useState<ComponentType<Props>>()
  const [fault, setFault] = useState<string>()
  useEffect(() => {
    load().then(
      (loaded) => setLoaded(() => loaded),
      () => setFault('This part of the page could not be loaded: the root does not answer. Open it again in a moment.'),
    )
  }, [])
  if (Loaded === undefined) return <p class="waiting muted">{fault ?? 'Loading …'}</p>
  return <Loaded {...shown} />
}

function useRoute() {
  const [hash, setHash] = useState(location.hash)
  useEffect(() => {
    const changed = () => setHash(location.hash)
    addEventListener('hashchange', changed)
    return () => removeEventListener('hashchange', changed)
  }, [])
  return routeIn(hash)
}

/** Ages on the page are at most a second old. */
function useNow(): number {
  const [now, setNow] = useState(Date.now)
  useEffect(() => {
    const timer = setInterval(() => document.visibilityState === 'visible' && setNow(Date.now()), 1_000)
    return () => clearInterval(timer)
  }, [])
  return now
}
