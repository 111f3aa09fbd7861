// kapi: a loopback test API server made of the real k8s.io/apiserver + apiextensions-apiserver libraries
// (Debian -dev packages), serving core/v1, discovery/v1, networking/v1, apps/v1, coordination/v1 and CRDs over TLS, stored in etcd.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	netv1 "k8s.io/api/networking/v1"
	extserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	extoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	extopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apivalid "k8s.io/apimachinery/pkg/api/validation"
	discoveryendpoint "k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/kube-openapi/pkg/common"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	nooptrace "go.opentelemetry.io/otel/trace/noop"
)

type res struct {
	name       string
	namespaced bool
	obj, list  runtime.Object
	status     bool
}

var table = map[schema.GroupVersion][]res{
	corev1.SchemeGroupVersion: {
		{"namespaces", false, &corev1.Namespace{}, &corev1.NamespaceList{}, true}, {"nodes", false, &corev1.Node{}, &corev1.NodeList{}, true},
		{"pods", true, &corev1.Pod{}, &corev1.PodList{}, true}, {"services", true, &corev1.Service{}, &corev1.ServiceList{}, true},
		{"endpoints", true, &corev1.Endpoints{}, &corev1.EndpointsList{}, false}, {"configmaps", true, &corev1.ConfigMap{}, &corev1.ConfigMapList{}, false},
		{"secrets", true, &corev1.Secret{}, &corev1.SecretList{}, false}, {"serviceaccounts", true, &corev1.ServiceAccount{}, &corev1.ServiceAccountList{}, false},
		{"events", true, &corev1.Event{}, &corev1.EventList{}, false},
	},
	discv1.SchemeGroupVersion:  {{"endpointslices", true, &discv1.EndpointSlice{}, &discv1.EndpointSliceList{}, false}},
	netv1.SchemeGroupVersion:   {{"networkpolicies", true, &netv1.NetworkPolicy{}, &netv1.NetworkPolicyList{}, false}},
	appsv1.SchemeGroupVersion:  {{"daemonsets", true, &appsv1.DaemonSet{}, &appsv1.DaemonSetList{}, true}, {"deployments", true, &appsv1.Deployment{}, &appsv1.DeploymentList{}, true}},
	eventsv1.SchemeGroupVersion: {{"events", true, &eventsv1.Event{}, &eventsv1.EventList{}, false}},
	coordv1.SchemeGroupVersion: {{"leases", true, &coordv1.Lease{}, &coordv1.LeaseList{}, false}},
}
var scheme = runtime.NewScheme()
var codecs = serializer.NewCodecFactory(scheme)

type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	ns, status bool
}

func (s strategy) NamespaceScoped() bool                                    { return s.ns }
func (s strategy) AllowCreateOnUpdate() bool                                { return !s.status }
func (s strategy) AllowUnconditionalUpdate() bool                           { return true }
func (s strategy) PrepareForCreate(_ context.Context, o runtime.Object)     {}
func (s strategy) PrepareForUpdate(_ context.Context, o, old runtime.Object) {}
func (s strategy) Validate(_ context.Context, o runtime.Object) field.ErrorList {
	m, _ := meta.Accessor(o)
	errs := apivalid.ValidateObjectMetaAccessor(m, s.ns, apivalid.NameIsDNSSubdomain, field.NewPath("metadata"))
	if svc, ok := o.(*corev1.Service); ok {
		for i, p := range svc.Spec.Ports {
			if p.Port < 1 || p.Port > 65535 {
				errs = append(errs, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("port"), p.Port, "must be 1-65535"))
			}
		}
	}
	return errs
}
func (s strategy) ValidateUpdate(_ context.Context, o, old runtime.Object) field.ErrorList {
	a, _ := meta.Accessor(o)
	b, _ := meta.Accessor(old)
	return apivalid.ValidateObjectMetaAccessorUpdate(a, b, field.NewPath("metadata"))
}
func (s strategy) WarningsOnCreate(context.Context, runtime.Object) []string      { return nil }
func (s strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string { return nil }
func (s strategy) Canonicalize(runtime.Object)                                   {}

func attrs(o runtime.Object) (labels.Set, fields.Set, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, nil, err
	}
	f := fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}
	if p, ok := o.(*corev1.Pod); ok {
		f["spec.nodeName"], f["status.phase"], f["status.podIP"] = p.Spec.NodeName, string(p.Status.Phase), p.Status.PodIP
	}
	return m.GetLabels(), f, nil
}

type statusREST struct{ store *registry.Store }

func (s *statusREST) New() runtime.Object { return s.store.New() }
func (s *statusREST) Destroy()            {}
func (s *statusREST) Get(ctx context.Context, n string, o *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, n, o)
}
func (s *statusREST) Update(ctx context.Context, n string, oi rest.UpdatedObjectInfo, cv rest.ValidateObjectFunc, uv rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.store.Update(ctx, n, oi, cv, uv, false, o)
}
func (s *statusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return nil }

func main() {
	port := flag.Int("port", 16443, "")
	etcd := flag.String("etcd", "http://127.0.0.1:23790", "")
	crt, key := flag.String("cert", "", ""), flag.String("key", "", "")
	flag.Parse()
	must := utilruntime.Must
	var gvs []schema.GroupVersion
	for gv, rs := range table {
		gvs = append(gvs, gv)
		in := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
		for _, r := range rs {
			scheme.AddKnownTypes(gv, r.obj, r.list)
			scheme.AddKnownTypes(in, r.obj, r.list) // external type doubles as hub
			for _, k := range []schema.GroupVersion{gv} {
				kinds, _, _ := scheme.ObjectKinds(r.obj)
				must(scheme.AddFieldLabelConversionFunc(k.WithKind(kinds[0].Kind), func(l, v string) (string, string, error) {
					switch l {
					case "metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "status.podIP":
						return l, v, nil
					}
					return "", "", fmt.Errorf("field label not supported: %s", l)
				}))
			}
		}
		metav1.AddToGroupVersion(scheme, gv)
		must(scheme.SetVersionPriority(gv))
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	scheme.AddUnversionedTypes(schema.GroupVersion{Version: "v1"}, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})

	o := genericoptions.NewRecommendedOptions("/registry", codecs.LegacyCodec(gvs...))
	o.Authentication, o.Authorization, o.CoreAPI, o.Admission = nil, nil, nil, nil
	o.Features.EnablePriorityAndFairness = false
	o.Etcd.StorageConfig.Transport.ServerList = []string{*etcd}
	o.SecureServing.BindAddress, o.SecureServing.BindPort = net.ParseIP("127.0.0.1"), *port
	o.SecureServing.ServerCert.CertKey.CertFile, o.SecureServing.ServerCert.CertKey.KeyFile = *crt, *key
	o.SecureServing.ServerCert.CertDirectory = os.TempDir()
	must(o.SecureServing.MaybeDefaultWithSelfSignedCerts("localhost", nil, []net.IP{net.ParseIP("127.0.0.1")}))
	defs := func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		m := extopenapi.GetOpenAPIDefinitions(ref)
		for k, v := range GetOpenAPIDefinitions(ref) {
			m[k] = v
		}
		return m
	}
	mk := func(cf serializer.CodecFactory, s *runtime.Scheme, oo *genericoptions.RecommendedOptions) *genericapiserver.RecommendedConfig {
		c := genericapiserver.NewRecommendedConfig(cf)
		c.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
		c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(defs, openapinamer.NewDefinitionNamer(s, extserver.Scheme))
		c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(defs, openapinamer.NewDefinitionNamer(s, extserver.Scheme))
		must(oo.ApplyTo(c))
		return c
	}
	core := mk(codecs, scheme, o)
	eo := *o
	et := *o.Etcd
	et.SkipHealthEndpoints = true
	et.StorageConfig.Codec = extserver.Codecs.LegacyCodec(extserver.Scheme.PrioritizedVersionsAllGroups()...)
	eo.Etcd = &et
	eo.SecureServing = nil
	ext := mk(extserver.Codecs, extserver.Scheme, &eo)
	ext.SecureServing, ext.LoopbackClientConfig = core.SecureServing, core.LoopbackClientConfig
	// kubectl discovers by one document for all groups: both servers write into it.
	groups := discoveryendpoint.NewResourceManager("apis")
	core.AggregatedDiscoveryGroupManager, ext.AggregatedDiscoveryGroupManager = groups, groups
	ext.ExternalAddress = fmt.Sprintf("127.0.0.1:%d", *port)
	ext.MergedResourceConfig = extserver.DefaultAPIResourceConfigSource()
	ec := &extserver.Config{GenericConfig: ext, ExtraConfig: extserver.ExtraConfig{
		CRDRESTOptionsGetter: extoptions.NewCRDRESTOptionsGetter(et, nil, ext.StorageObjectCountTracker), MasterCount: 1,
		ServiceResolver:      webhook.NewDefaultServiceResolver(),
		AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, core.LoopbackClientConfig, nooptrace.NewTracerProvider())}}
	extS, err := ec.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(nil))
	must(err)
	cc := core.Complete()
	s, err := cc.New("kapi", extS.GenericAPIServer)
	must(err)
	stores := map[string]*registry.Store{}
	for gv, rs := range table {
		gi := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
		m := map[string]rest.Storage{}
		for _, r := range rs {
			r := r
			kinds, _, _ := scheme.ObjectKinds(r.obj)
			st := strategy{scheme, names.SimpleNameGenerator, r.namespaced, false}
			gr := schema.GroupResource{Group: gv.Group, Resource: r.name}
			store := &registry.Store{NewFunc: func() runtime.Object { return r.obj.DeepCopyObject() }, NewListFunc: func() runtime.Object { return r.list.DeepCopyObject() },
				DefaultQualifiedResource: gr, SingularQualifiedResource: schema.GroupResource{Group: gv.Group, Resource: strings.ToLower(kinds[0].Kind)},
				PredicateFunc: func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
					return storage.SelectionPredicate{Label: l, Field: f, GetAttrs: attrs}
				}, CreateStrategy: st, UpdateStrategy: st, DeleteStrategy: st, TableConvertor: rest.NewDefaultTableConvertor(gr)}
			must(store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: cc.RESTOptionsGetter, AttrFunc: attrs}))
			m[r.name] = store
			stores[r.name] = store
			if r.status {
				m[r.name+"/status"] = &statusREST{store}
			}
		}
		gi.VersionedResourcesStorageMap[gv.Version] = m
		if gv.Group == "" {
			must(s.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, &gi))
		} else {
			must(s.InstallAPIGroup(&gi))
		}
	}
	must(s.PrepareRun().RunWithContext(genericapiserver.SetupSignalContext()))
}
