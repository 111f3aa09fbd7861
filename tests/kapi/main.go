// SPDX-License-Identifier: Apache-2.0

// Command kapi is an API server for tests, made of the libraries that the real one is made of (k8s.io/apiserver, k8s.io/apiextensions-apiserver):
// lists, watches, bookmarks, 410, server-side apply, custom resources with schemas and CEL, and roles. It stores in etcd and serves over TLS.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	extserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	extoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	extopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/kube-openapi/pkg/common"

	"go.opentelemetry.io/otel/trace/noop"
)

var (
	bind  = flag.String("bind", "127.0.0.1", "address to listen at")
	port  = flag.Int("port", 6443, "port to listen at")
	etcd  = flag.String("etcd", "http://127.0.0.1:2379", "URL of etcd")
	cert  = flag.String("cert", "", "certificate of the server")
	key   = flag.String("key", "", "its key")
	trail = flag.String("audit", "", "file that is told what service accounts ask for")
)

func main() {
	flag.Parse()
	scheme := runtime.NewScheme()
	groups := register(scheme)
	codecs := serializer.NewCodecFactory(scheme)
	rights := &access{stores: map[string]*registry.Store{}, audit: newAudit(*trail)}

	recommended := options.NewRecommendedOptions("/registry", codecs.LegacyCodec(groups...))
	recommended.Authentication, recommended.Authorization, recommended.CoreAPI, recommended.Admission = nil, nil, nil, nil
	recommended.Features.EnablePriorityAndFairness = false
	recommended.Etcd.StorageConfig.Transport.ServerList = []string{*etcd}
	secure := recommended.SecureServing
	secure.BindAddress, secure.BindPort = net.ParseIP(*bind), *port
	secure.ServerCert.CertKey.CertFile, secure.ServerCert.CertKey.KeyFile = *cert, *key
	secure.ServerCert.CertDirectory = os.TempDir()

	own := configure(codecs, scheme, recommended, rights)
	extensions := extend(own, recommended, rights)
	completed := own.Complete()
	s, err := completed.New("kapi", extensions)
	utilruntime.Must(err)
	for group, ofGroup := range kinds {
		info := server.NewDefaultAPIGroupInfo(group.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
		stored := map[string]rest.Storage{}
		for _, k := range ofGroup {
			store := newStore(scheme, group.Group, k, completed.RESTOptionsGetter)
			stored[k.name], rights.stores[k.name] = store, store
			if k.hasStatus {
				stored[k.name+"/status"] = &status{store}
			}
		}
		info.VersionedResourcesStorageMap[group.Version] = stored
		if group.Group == "" {
			utilruntime.Must(s.InstallLegacyAPIGroup(server.DefaultLegacyAPIPrefix, &info))
		} else {
			utilruntime.Must(s.InstallAPIGroup(&info))
		}
	}
	utilruntime.Must(s.PrepareRun().RunWithContext(server.SetupSignalContext()))
}

// configure is what the server of the kinds here and the one of custom resources have in common.
func configure(codecs serializer.CodecFactory, scheme *runtime.Scheme, recommended *options.RecommendedOptions, rights *access) *server.RecommendedConfig {
	definitions := func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		all := extopenapi.GetOpenAPIDefinitions(ref)
		for name, definition := range GetOpenAPIDefinitions(ref) {
			all[name] = definition
		}
		return all
	}
	namer := openapi.NewDefinitionNamer(scheme, extserver.Scheme)
	config := server.NewRecommendedConfig(codecs)
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.OpenAPIV3Config = server.DefaultOpenAPIV3Config(definitions, namer)
	config.OpenAPIConfig = server.DefaultOpenAPIConfig(definitions, namer)
	utilruntime.Must(recommended.ApplyTo(config))
	config.Authentication.Authenticator = authenticator.RequestFunc(authenticate)
	config.Authorization.Authorizer = rights
	return config
}

// extend makes the server of custom resources, to which own passes on what it does not know.
func extend(own *server.RecommendedConfig, recommended *options.RecommendedOptions, rights *access) *server.GenericAPIServer {
	etcdOptions := *recommended.Etcd
	etcdOptions.SkipHealthEndpoints = true
	etcdOptions.StorageConfig.Codec = extserver.Codecs.LegacyCodec(extserver.Scheme.PrioritizedVersionsAllGroups()...)
	others := *recommended
	others.Etcd, others.SecureServing = &etcdOptions, nil
	config := configure(extserver.Codecs, extserver.Scheme, &others, rights)
	config.SecureServing, config.LoopbackClientConfig = own.SecureServing, own.LoopbackClientConfig
	// Clients discover by one document for all groups: both servers write into it.
	groups := aggregated.NewResourceManager("apis")
	own.AggregatedDiscoveryGroupManager, config.AggregatedDiscoveryGroupManager = groups, groups
	config.ExternalAddress = fmt.Sprintf("%s:%d", *bind, *port)
	config.MergedResourceConfig = extserver.DefaultAPIResourceConfigSource()
	all := &extserver.Config{GenericConfig: config, ExtraConfig: extserver.ExtraConfig{
		CRDRESTOptionsGetter: extoptions.NewCRDRESTOptionsGetter(etcdOptions, nil, config.StorageObjectCountTracker),
		MasterCount:          1,
		ServiceResolver:      webhook.NewDefaultServiceResolver(),
		AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, own.LoopbackClientConfig, noop.NewTracerProvider()),
	}}
	made, err := all.Complete().New(server.NewEmptyDelegateWithCustomHandler(nil))
	utilruntime.Must(err)
	return made.GenericAPIServer
}
